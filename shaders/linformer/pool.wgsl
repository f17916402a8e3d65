// Pools keys or values: the mean or maximum over the tokens of each row. Each split covers a part of the tokens.
// Grid: blocks of 64 elements of a result, splits, units (batch, head). Reads x; writes projected.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B G M dim: k or v
@group(0) @binding(PROJECTED_BINDING) var<storage, read_write> projected: array<f32>; // [splits][units][K][dim]

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
    let element = index % params.col_tiles * 64u + invocation;
    let split = index / params.col_tiles % params.splits;
    let unit = params.first_unit + index / params.col_tiles / params.splits;
    let r = element / params.dim;
    let d = element % params.dim;
    if (r >= params.rank) {
        return;
    }
    let tokens = window(r);
    let count = tokens.y - tokens.x;
    let end = tokens.x + portion(split + 1u, params.splits, count);
    var at = tokens.x + portion(split, params.splits, count);
    let x_head = head_start(params.x, unit / params.heads, unit % params.heads) + d;
    // Every split has at least one token.
    count_load(1u);
    var value = f32(x[x_head + at * params.x.token]);
    for (at++; at < end; at++) {
        count_load(1u);
        let next = f32(x[x_head + at * params.x.token]);
        value = select(value + next, max(value, next), POOL == 2u);
    }
    if (params.splits == 1u) {
        value = finish(value, r);
    }
    count_store(1u);
    projected[home(split, unit, r, d)] = value;
}
