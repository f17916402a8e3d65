// The sums of the splits of K, element by element (merge.wgsl).
@group(0) @binding(PARTIALS_BINDING) var<storage, read> partials: array<f32>; // splits, o

fn load_partials(at: u32, elements: u32) -> vec4<f32> {
    count_load(elements);
    var four = vec4<f32>(0.0);
    for (var i = 0u; i < elements; i++) {
        four[i] = partials[at + i];
    }
    return four;
}
