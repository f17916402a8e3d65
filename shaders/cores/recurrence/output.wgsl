// Recurrence, pass 2 (or the only pass): processes the tokens of a segment, starting from its initial state, and reads the
// state for the queries. Grid: column splits, head splits, segments, KV heads. Reads q, k, v, state; writes o, and segments
// at the end.
//
// The operator defines, in addition to what rank_one_update.wgsl and query_state.wgsl need: combine_row_splits(row,
// split, e, sum, weight), which returns whether these sums of a row (batch, query head, token) are complete, and
// otherwise stores them; initial_state(at), an element of the initial state; normalize(row, sum, weight), which
// normalises the scaled sums of a row of the tile; epilogue(p, n, t, i, o), the epilogue for four columns of the output
// of token n, which is token t of the tile.
override CAUSAL: u32 = 1u; // 1: each token writes the state before it is read; 0: all queries read the state of segment 0
override INIT: u32 = 0u;   // initial state: 0 zero, 1 from segments, 2 from state
override STORE: u32 = 0u;  // 1: store the final state in segments

fn stored(at: u32, exists: bool) -> f32 {
    if (!exists) {
        return 0.0;
    }
    count_load(1u);
    if (INIT == 2u) {
        return initial_state(at);
    }
    return segments[at];
}

fn load_state(p: Place, invocation: u32) {
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    clear_state();
    if (INIT == 0u) {
        return;
    }
    let size = params.rows * params.dim_v;
    // Non-causal: every query segment reads the state of the first segment, which holds the sum over all of them.
    let home = select(p.kv * params.stored_segments, p.kv * params.stored_segments + p.segment, CAUSAL == 1u);
    let base = select(home * params.segment_stride, p.kv * size, INIT == 2u);
    let norm = select(base + size, params.norm_offset + p.kv * params.rows, INIT == 2u);
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    for (var i = 0u; i < ROWS; i++) {
        let d = state_row(row_thread * ROWS + i);
        let row = base + d * params.dim_v + e;
        let within = d < params.rows;
        state_rows[i] = vec4<f32>(
            stored(row, within && e < params.dim_v),
            stored(row + 1u, within && e + 1u < params.dim_v),
            stored(row + 2u, within && e + 2u < params.dim_v),
            stored(row + 3u, within && e + 3u < params.dim_v),
        );
    }
    if (NORMALIZE == 1u) {
        for (var i = 0u; i < NORM_ROWS; i++) {
            let row = invocation + i * INVOCATIONS;
            let d = state_row(row);
            norm_rows[i] = stored(norm + d, row < 4u * DIM4 && d < params.rows);
        }
    }
}

fn store_outputs(p: Place, first: u32, end: u32, invocation: u32) {
    for (var turn = 0u; turn < (READ_HEADS * TILE * COL_THREADS + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((READ_HEADS * TILE * COL_THREADS) % INVOCATIONS != 0u && i >= READ_HEADS * TILE * COL_THREADS) {
            break;
        }
        let row = i / COL_THREADS;
        let col_thread = i % COL_THREADS;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        if (n < end && r < p.group) {
            var sum = sum_partials(row, col_thread);
            var weight = 0.0;
            if (NORMALIZE == 1u) {
                weight = sum_weights(row);
            }
            let e = (p.split * COL_THREADS + col_thread) * 4u;
            if (!combine_row_splits((p.kv * p.group + r) * params.queries + n, p.split, e, &sum, &weight)) {
                continue;
            }
            sum = normalize(row, params.scale * sum, params.scale * weight);
            sum = epilogue(p, n, row % TILE, col_thread, sum);
            let at = head_start(params.o, p.b, p.g * p.group + r) + n * params.o.token;
            count_store(four_of(e, params.dim_v));
            store_o(at, e, sum);
        }
    }
}

fn output(index: u32, invocation: u32) {
    let p = place(index);
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    let end = min((p.segment + 1u) * params.segment, params.queries);
    load_state(p, invocation);
    for (var n = p.segment * params.segment; n < end; n += TILE) {
        load_queries(p, n, end, invocation);
        if (CAUSAL == 1u) {
            load_keys(p, n, end, invocation);
            load_decay(p, n, end, invocation);
        }
        finish_tile(p, CAUSAL == 1u, true, invocation);
        workgroupBarrier();
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
    if (STORE == 1u && p.head_split == 0u) {
        store_segment(p, row_thread, col_thread);
    }
}
