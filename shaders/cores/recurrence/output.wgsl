// Recurrence, pass 2 (or the only pass): processes the tokens of a segment, starting from its initial state, and reads the
// state for the queries. Grid: column splits, head splits, segments, KV heads. Reads q, k, v; writes o, and segments at the
// end.
//
// A variant brings, in addition to what rank_one_update.wgsl, query_state.wgsl and load_state.wgsl need: begin_walk(p, segment,
// stored, invocation), which prepares workgroup memory for the initial state of a segment, or for none, and end_walk(p, store,
// invocation).
@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn recurrence_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    // Loops follow this place, because no compiler takes a broadcast number for one that all of a workgroup share.
    let home = place(index, params.queries, invocation);
    let p = shared_place(home);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    let end = home.span.end;
    begin_walk(p, initial_segment(p), INIT == 1u, invocation);
    load_state(p, invocation);
    // A segment that is left over behind packed sequences has no tokens: what it fetches is not used.
    fetch_tile(p, home.span.first, max(end, 1u), CAUSAL == 1u, invocation);
    for (var batch = home.span.first; batch < end; batch += BATCH) {
        if (CAUSAL == 1u) {
            load_decays(p, batch, end, invocation);
        }
        let stop = min(batch + BATCH, end);
        for (var n = batch; n < stop; n += TILE) {
            tile_start = n - batch;
            store_tile(p, n, end, CAUSAL == 1u, invocation);
            if (CAUSAL == 1u) {
                load_decay(p, n, end, invocation);
            }
            finish_tile(p, CAUSAL == 1u, true, invocation);
            workgroupBarrier();
            fetch_tile(p, n + TILE, end, CAUSAL == 1u, invocation);
            for (var t = 0u; t < TILE; t++) {
                if (CAUSAL == 1u) {
                    rank_one_update(t, row_thread, col_thread);
                }
                for (var r = 0u; r < READ_HEADS; r++) {
                    query_state(r, t, row_thread, col_thread);
                }
            }
            workgroupBarrier();
            if (NORMALIZE == 1u) {
                sum_columns_of_weights(invocation);
                workgroupBarrier();
            }
            store_outputs(p, n, end, invocation);
        }
    }
    if (STORE == 1u && p.head_split == 0u) {
        store_segment(p, row_thread, col_thread);
    }
    end_walk(p, STORE == 1u && p.head_split == 0u, invocation);
}
