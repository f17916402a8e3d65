// Recurrence, kernels that write outputs: loads the initial state of a segment, and stores the outputs of a tile.
//
// A variant brings: combine_row_splits(row, split, e, sum, weight), which returns whether these sums of a row (batch, query
// head, token) are complete, and otherwise stores them; normalize(row, sum, weight), which scales the sums of a row of the tile
// and normalises them; epilogue(p, n, t, i, o), the epilogue for four columns of the output of token n, which is token t of the
// tile.
override CAUSAL: u32 = 1u; // 1: each token writes the state before it is read; 0: all queries read the state of segment 0
override INIT: u32 = 0u;   // initial state: 0 zero, 1 from segments
override STORE: u32 = 0u;  // 1: store the final state in segments
override SUMMED: u32 = 0u; // 1: outputs are added to those of an earlier run

fn stored(at: u32, exists: bool) -> f32 {
    if (!exists) {
        return 0.0;
    }
    count_load(1u);
    return segment_at(at);
}

// The stored segment with the initial state. Non-causal: every query segment reads the state of the first segment, which
// holds the sum over all of them.
fn initial_segment(p: Place) -> u32 {
    return select(0u, p.segment, CAUSAL == 1u) + params.read_page;
}

fn load_state(p: Place, invocation: u32) {
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    clear_state();
    if (INIT == 0u) {
        return;
    }
    let size = params.rows * params.dim_v;
    let base = (p.kv * params.stored_segments + initial_segment(p)) * params.segment_stride;
    let norm = base + size;
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    for (var i = 0u; i < ROWS; i++) {
        let d = state_row(row_thread * ROWS + i);
        // Past the last row a state is zero. Columns past the value dimension are never read.
        count_load(select(0u, four_of(e, params.dim_v), d < params.rows));
        let row = stored_row(base + min(d, params.rows - 1u) * params.dim_v, e);
        state_rows[i] = select(vec4<f32>(0.0), row, d < params.rows);
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
            sum = normalize(row, sum, weight);
            sum = epilogue(p, n, row % TILE, col_thread, sum);
            let at = head_start(params.o, p.b, p.g * p.group + r) + n * params.o.token;
            if (SUMMED == 1u && e < params.dim_v) {
                count_load(four_of(e, params.dim_v));
                sum += load_o(at, e);
            }
            count_store(four_of(e, params.dim_v));
            store_o(at, e, sum);
        }
    }
}
