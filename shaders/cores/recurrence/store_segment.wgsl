// Stores the state from registers to the workspace. Per segment: rows x E, then one sum of features per row if normalised,
// then, with a decay, the logarithm of the segment's total decay, one number or one per row. Factors instead of logarithms
// would lose precision: a state that lasts for many segments would multiply their rounding errors.

// Log decay of the segment so far, for the rows of this invocation.
const PASSED: u32 = select(1u, ROWS4, DECAY == 2u);
var<private> passed_rows: array<vec4<f32>, PASSED>;

fn clear_passed() {
    for (var i = 0u; i < PASSED; i++) {
        passed_rows[i] = vec4<f32>(0.0);
    }
}

fn pass_token(t: u32, row_thread: u32) {
    if (DECAY != 0u && !BY_BATCH) {
        for (var i = 0u; i < PASSED; i++) {
            passed_rows[i] += log_decay(t, row_thread * ROWS4 + i);
        }
    }
}

fn store_passed(p: Place, row_thread: u32, col_thread: u32) {
    let at = (p.kv * params.stored_segments + p.segment) * params.segment_stride + params.state_len;
    if (DECAY == 1u && p.split == 0u && row_thread == 0u && col_thread == 0u) {
        put_segment(at, passed_rows[0].x, true);
    }
    if (DECAY == 2u && p.split == 0u && col_thread == 0u) {
        for (var i = 0u; i < ROWS; i++) {
            let d = state_row(row_thread * ROWS + i);
            put_segment(at + d, passed_rows[i / 4u % PASSED][i % 4u], d < params.rows);
        }
    }
}

fn put_segment(at: u32, value: f32, exists: bool) {
    if (exists) {
        count_store(1u);
        write_segment(at, value);
    }
}

fn store_segment(p: Place, row_thread: u32, col_thread: u32) {
    let base = (p.kv * params.stored_segments + p.segment) * params.segment_stride;
    let e = (p.split * COL_THREADS + col_thread) * 4u;
    for (var i = 0u; i < ROWS; i++) {
        let d = state_row(row_thread * ROWS + i);
        if (d < params.rows) {
            count_store(four_of(e, params.dim_v));
            put_row(base + d * params.dim_v, e, state_rows[i]);
        }
    }
    if (NORMALIZE == 1u && p.split == 0u) {
        let norm = base + params.rows * params.dim_v;
        for (var i = 0u; i < NORM_ROWS; i++) {
            let row = row_thread * COL_THREADS + col_thread + i * INVOCATIONS;
            let d = state_row(row);
            put_segment(norm + d, norm_rows[i], row < 4u * DIM4 && d < params.rows);
        }
    }
}
