// Stores outputs (output.wgsl) of workgroups that share the keys, as shaders/cores/attention/split_k_merge.wgsl merges them:
// sums that are not normalised yet, the maximum that they are relative to, in units of log 2, and the sum of weights.
@group(0) @binding(PARTIALS_BINDING) var<storage, read_write> partials: array<vec4<f32>>; // [B H N][splits][E / 4 + 1]

const LOG2_E: f32 = 1.4426950408889634;

fn partial_at(block: Block, row: u32) -> u32 {
    let rows = (block.batch * params.heads + block.head) * params.queries + row;
    return (rows * params.splits + block.split) * ((params.dim_v + 3u) / 4u + 1u);
}

fn store_output(block: Block, row: u32, e: u32, values: vec4<f32>, sum: f32) {
    if (e < params.dim_v) {
        count_store(4u);
        partials[partial_at(block, row) + e / 4u] = values;
    }
}

fn store_sums(block: Block, row: u32, top: f32, sum: f32) {
    count_store(4u);
    // The maximum stays finite for a row that sees no key.
    let largest = max(top, -2e38) * LOG2_E;
    partials[partial_at(block, row) + (params.dim_v + 3u) / 4u] = vec4<f32>(largest, sum, 0.0, 0.0);
}
