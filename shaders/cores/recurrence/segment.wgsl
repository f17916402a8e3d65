// Recurrence, pass 1: the state after the tokens of one segment, starting from zero. Grid: column splits, segments, KV heads.
// Reads k, v; writes segments.

// Decays the state by a whole batch before its tokens write.
fn begin_batch() {
    if (BY_BATCH) {
        let left = vec4<f32>(decay_of(batch_log()));
        for (var i = 0u; i < ROWS; i++) {
            state_rows[i] = left_of(left, state_rows[i]);
        }
        for (var i = 0u; i < NORM_ROWS; i++) {
            norm_rows[i] = left_of(left, vec4<f32>(norm_rows[i])).x;
        }
        passed_rows[0] += batch_log();
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn recurrence_segment(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    // Loops follow this place, because no compiler takes a broadcast number for one that all of a workgroup share.
    let home = place(index, params.keys, invocation);
    let p = shared_place(home);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    let end = home.span.end;
    clear_state();
    clear_passed();
    begin_walk(p, 0u, false, invocation);
    for (var batch = home.span.first; batch < end; batch += BATCH) {
        workgroupBarrier();
        load_decays(p, batch, end, invocation);
        begin_batch();
        let stop = min(batch + BATCH, end);
        for (var n = batch; n < stop; n += TILE) {
            tile_start = n - batch;
            workgroupBarrier();
            load_keys(p, n, end, invocation);
            load_decay(p, n, end, invocation);
            finish_tile(p, true, false, invocation);
            workgroupBarrier();
            for (var t = 0u; t < TILE; t++) {
                rank_one_update(t, row_thread, col_thread);
                pass_token(t, row_thread);
            }
        }
    }
    store_segment(p, row_thread, col_thread);
    store_passed(p, row_thread, col_thread);
    end_walk(p, true, invocation);
}
