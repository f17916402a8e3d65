// Pools keys or values: the mean or maximum over the tokens of each row. Each split covers a part of the tokens.
// Grid: blocks of 64 groups of four columns of a result, splits, units (batch, head). Reads x; writes projected. Needs
// x_wide.wgsl or x_narrow.wgsl.

@compute @workgroup_size(64)
fn linformer_pool(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let own = index % params.col_tiles * 64u + invocation;
    let split = index / params.col_tiles % params.splits;
    let unit = params.first_unit + index / params.col_tiles / params.splits;
    let dim4 = (params.dim + 3u) / 4u;
    let r = own / dim4;
    let d = own % dim4 * 4u;
    if (r >= params.rank) {
        return;
    }
    let tokens = window(r);
    let count = tokens.y - tokens.x;
    let end = tokens.x + portion(split + 1u, params.splits, count);
    var at = tokens.x + portion(split, params.splits, count);
    let x_head = head_start(params.x, unit / params.heads, unit % params.heads);
    // Every split has at least one token.
    count_load(four_of(d, params.dim));
    var value = load_x(x_head + at * params.x.token, d);
    for (at++; at < end; at++) {
        count_load(four_of(d, params.dim));
        let next = load_x(x_head + at * params.x.token, d);
        value = select(value + next, max(value, next), POOL == 2u);
    }
    if (params.splits == 1u) {
        value /= count_of(r);
    }
    count_store(four_of(d, params.dim));
    store_projected(home(split, unit, r, 0u), d, value);
}
