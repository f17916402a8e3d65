// Applies the later chunks of each run, starting from the composition of the chunks before. Pieces without such end at once.
// Grid: blocks of columns, groups of pieces, units. Reads keys, rates, v, carries; writes memory, contributions.
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
    if (!any_came_in(p, invocation)) {
        return;
    }
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
    let chunk = chunk_of_run(p);
    if (chunk == REACH || p.e >= params.dim_v) {
        return;
    }
    walk(p, chunk, before_chunk(p, chunk, params.dim_v + CONTENT_KEPT, p.e), false, true, false);
}
