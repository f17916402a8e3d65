// Core of the recurrences, second half: reads the state of rank_one_update.wgsl with the features of the queries.
//
// Each invocation holds only ROWS of the rows. A read therefore leaves one partial sum per row thread in workgroup memory;
// after a barrier they are added in a fixed order. One workgroup reads a KV head's state for READ_HEADS query heads.
//
// Prelude constants: READ_HEADS, NORMED (1 if sums of features are kept) and those of rank_one_update.wgsl. The operator
// defines query_features(row, i) and query_feature_at(row, d), the features of row r * TILE + t, and load_queries; and
// sum_scale(row), a factor that the features of the rows of an invocation lack.

// Partial sums, [READ_HEADS][TILE][ROW_THREADS][COL_THREADS], and partial weights, of each invocation's rows of z.
var<workgroup> wg_partial: array<vec4<f32>, READ_HEADS * TILE * INVOCATIONS>;
var<workgroup> wg_weight: array<f32, select(4u, READ_HEADS * TILE * INVOCATIONS, NORMED == 1u)>;

// Partial sums of S^T phi(q_t) and z . phi(q_t) for token t of query head r.
fn query_state(r: u32, t: u32, row_thread: u32, col_thread: u32) {
    let row = r * TILE + t;
    var sum = vec4<f32>(0.0);
    for (var i = 0u; i < ROWS4; i++) {
        let q = query_features(row, row_thread * ROWS4 + i);
        sum += q.x * state_rows[4u * i];
        sum += q.y * state_rows[4u * i + 1u];
        sum += q.z * state_rows[4u * i + 2u];
        sum += q.w * state_rows[4u * i + 3u];
    }
    wg_partial[(row * ROW_THREADS + row_thread) * COL_THREADS + col_thread] = sum_scale(row) * sum;
    if (NORMALIZE == 1u) {
        let invocation = row_thread * COL_THREADS + col_thread;
        var weight = 0.0;
        for (var i = 0u; i < NORM_ROWS; i++) {
            let d = invocation + i * INVOCATIONS;
            let of_row = min(d, 4u * DIM4 - 1u);
            weight += select(0.0, query_feature_at(row, of_row) * norm_rows[i], d < 4u * DIM4);
        }
        wg_weight[row * INVOCATIONS + invocation] = weight;
    }
}

// Adds the weights of the column threads of each row thread, in place of the first. Call between barriers.
fn sum_columns_of_weights(invocation: u32) {
    for (var turn = 0u; turn < (READ_HEADS * TILE * ROW_THREADS + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((READ_HEADS * TILE * ROW_THREADS) % INVOCATIONS != 0u && i >= READ_HEADS * TILE * ROW_THREADS) {
            break;
        }
        let first = i * COL_THREADS;
        var sum = wg_weight[first];
        for (var x = 1u; x < COL_THREADS; x++) {
            sum += wg_weight[first + x];
        }
        wg_weight[first] = sum;
    }
}

// Total of one row r * TILE + t. Call after a barrier.
fn sum_partials(row: u32, col_thread: u32) -> vec4<f32> {
    var sum = wg_partial[row * INVOCATIONS + col_thread];
    for (var y = 1u; y < ROW_THREADS; y++) {
        sum += wg_partial[row * INVOCATIONS + y * COL_THREADS + col_thread];
    }
    return sum;
}

fn sum_weights(row: u32) -> f32 {
    var sum = wg_weight[row * INVOCATIONS];
    for (var y = 1u; y < ROW_THREADS; y++) {
        sum += wg_weight[row * INVOCATIONS + y * COL_THREADS];
    }
    return sum;
}
