// Stands for finish.wgsl where K is split, element by element (partial_wide.wgsl).
@group(0) @binding(PARTIALS_BINDING) var<storage, read_write> partials: array<f32>; // splits, o

var<private> own_split: u32;

fn finish(at: u32, elements: u32, sums: vec4<f32>) {
    count_store(elements);
    for (var i = 0u; i < elements; i++) {
        partials[own_split * params.total + at + i] = sums[i];
    }
}
