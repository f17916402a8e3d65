// Recurrence, pass 1: the state after the tokens of one segment, starting from zero. Grid: column splits, segments, KV heads.
// Reads k, v; writes segments.
fn segment(index: u32, invocation: u32) {
    let p = place(index);
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    let end = min((p.segment + 1u) * params.segment, params.keys);
    clear_state();
    clear_passed();
    for (var n = p.segment * params.segment; n < end; n += TILE) {
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
    store_segment(p, row_thread, col_thread);
    store_passed(p, row_thread, col_thread);
}
