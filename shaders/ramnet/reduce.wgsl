// Sums what the reads of a token contribute, in the order of their ranks. After the last block it advances the positions.
// Grid: blocks of 256 elements of the block's outputs. Reads contributions; reads and writes memory, o.
@group(0) @binding(CONTRIBUTIONS_BINDING) var<storage, read> contributions: array<f32>; // [units][block tokens][K][E]
@group(0) @binding(MEMORY_BINDING) var<storage, read_write> memory: array<u32>; // positions
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Out>; // B H N E

override SUMMED: u32 = 0u; // 1: the outputs are added to those of the run before

@compute @workgroup_size(256)
fn ramnet_reduce(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    let element = index * 256u + invocation;
    let row = element / params.dim_v;
    let unit = row / params.tokens;
    if (index >= params.grid.end || unit >= params.units) {
        return;
    }
    let t = row % params.tokens;
    let e = element % params.dim_v;
    var sum = 0.0;
    for (var rank = 0u; rank < TOPK; rank++) {
        count_load(1u);
        sum += contributions[(row * TOPK + rank) * params.dim_v + e];
    }
    let n = params.first_token + t;
    let at = head_start(params.o, unit_batch(unit), unit_head(unit)) + n * params.o.token + e;
    if (SUMMED == 1u) {
        count_load(1u);
        sum += f32(o[at]);
    }
    count_store(1u);
    o[at] = Out(sum);
    if (params.advance > 0u && t == 0u && e == 0u) {
        advance_position(unit, 0u, params.advance);
    }
}
