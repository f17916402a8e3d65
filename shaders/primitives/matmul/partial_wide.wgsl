// Stands for finish.wgsl where K is split: the sums of a split are stored where o has its elements, for merge.wgsl.
@group(0) @binding(PARTIALS_BINDING) var<storage, read_write> partials: array<vec4<f32>>; // splits, o

var<private> own_split: u32;

fn finish(at: u32, elements: u32, sums: vec4<f32>) {
    count_store(elements);
    if (elements > 0u) {
        partials[(own_split * params.total + at) / 4u] = sums;
    }
}
