// Applies the first chunk of every run. For each later chunk that has more of its run after it, computes its effect on any
// content.
// Grid: blocks of columns, groups of pieces, units. Reads events, rates, v; reads and writes memory; writes contributions,
// carries.
@compute @workgroup_size(COLUMNS * PER)
fn ramnet_apply(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let p = place_of(index, invocation);
    load_starts(p, invocation);
    for (var i = invocation; i < PER * SPAN; i += COLUMNS * PER) {
        load_key(p, i / SPAN, i % SPAN);
    }
    for (var i = invocation; i < PER * REACH; i += COLUMNS * PER) {
        load_rate(p, i / REACH, i % REACH);
    }
    workgroupBarrier();
    if (p.piece >= p.pieces || p.e >= params.dim_v) {
        return;
    }
    let later = chunk_of_run(p);
    var first = 0u;
    let goes_through = later != REACH && goes_on(p, later);
    if (goes_through) {
        // The whole piece belongs to one run.
        first = later;
    } else {
        while (first < PIECE && key_of(p, first) != 0xffffffffu && !is_start(p, first)) {
            first++;
        }
    }
    if (goes_through || first < PIECE) {
        walk(p, first, 0.0, !goes_through, !goes_through, true);
    }
}
