// One over the length of each vector of q or k. Grid: blocks of four tokens of a head, heads.
const LANES: u32 = 16u;

var<workgroup> wg_square: array<f32, 64>;

@compute @workgroup_size(64)
fn linear_lengths(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let b = index / params.blocks / params.heads;
    let h = index / params.blocks % params.heads;
    let n = index % params.blocks * (64u / LANES) + invocation / LANES;
    let lane = invocation % LANES;
    var square = 0.0;
    if (n < params.tokens) {
        let at = head_start(params.given, b, h) + n * params.given.token;
        for (var d = lane; d < params.dim; d += LANES) {
            count_load(1u);
            let x = f32(given[at + d]);
            square += x * x;
        }
    }
    wg_square[invocation] = square;
    workgroupBarrier();
    if (lane == 0u && n < params.tokens) {
        for (var other = 1u; other < LANES; other++) {
            square += wg_square[invocation + other];
        }
        count_store(1u);
        made[head_start(params.made, b, h) + n * params.made.token] = 1.0 / sqrt(square + params.eps);
    }
}
