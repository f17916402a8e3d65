// Applies the later chunks of each run, starting from the composition of the chunks before. Ends at once in a tile without such.
// Grid: blocks of columns, groups of pieces, units. Reads events, rates, v, carries; writes memory, contributions.
var<workgroup> wg_is_long: u32; // 1 if a run of the tile is longer than a piece

@compute @workgroup_size(COLUMNS * PER)
fn ramnet_compose(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let p = place_of(index, invocation);
    if (invocation == 0u) {
        count_load(1u);
        wg_is_long = u32(rates[p.rates + params.tile_tokens * 2u * TOPK + tile_pieces()]);
    }
    if (workgroupUniformLoad(&wg_is_long) == 0u) {
        return;
    }
    load_starts(p, invocation);
    workgroupBarrier();
    for (var i = invocation; i < PER * SPAN; i += COLUMNS * PER) {
        if (came_in(p, i / SPAN)) {
            load_key(p, i / SPAN, i % SPAN);
        }
    }
    for (var i = invocation; i < PER * REACH; i += COLUMNS * PER) {
        if (came_in(p, i / REACH)) {
            load_rate(p, i / REACH, i % REACH);
        }
    }
    workgroupBarrier();
    if (p.piece >= p.pieces || p.e >= params.dim_v || !came_in(p, p.local)) {
        return;
    }
    let chunk = chunk_of_run(p);
    if (chunk == REACH) {
        return;
    }
    let origin = wg_starts[p.local] / PIECE;
    count_load(1u);
    var content = carries[carry_at(p, origin) + p.e];
    for (var i = 1u; i < (p.piece * PIECE + chunk - wg_starts[p.local]) / PIECE; i++) {
        count_load(2u);
        let at = carry_at(p, origin + i);
        content = carries[at + params.dim_v] * content + carries[at + p.e];
    }
    walk(p, chunk, content, false, true, false);
}
