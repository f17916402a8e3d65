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
    for (var i = 0u; i < min(PIECE, p.count - p.piece * PIECE); i++) {
        let slot = slot_of(p, i);
        let starts = wg_keys[p.local * SPAN + i] >> BITS != slot;
        if (starts || (i == later && goes_on(p, i))) {
            var content = 0.0;
            if (starts) {
                count_load(1u);
                content = memory[content_at(p, slot)];
            }
            let behind = walk_chunk(p, i, content, starts);
            if (goes_on(p, i)) {
                count_store(1u);
                carries[carry_at(p, p.piece) + p.e] = behind.x;
                if (p.e == 0u) {
                    count_store(1u);
                    carries[carry_at(p, p.piece) + params.dim_v] = behind.y;
                }
            } else if (behind.y != 1.0 || behind.x != content) {
                count_store(1u);
                memory[content_at(p, slot)] = behind.x;
            }
        }
    }
}
