// The sums of the splits of K, four elements at once (merge.wgsl).
@group(0) @binding(PARTIALS_BINDING) var<storage, read> partials: array<vec4<f32>>; // splits, o

fn load_partials(at: u32, elements: u32) -> vec4<f32> {
    count_load(elements);
    return partials[at / 4u];
}
