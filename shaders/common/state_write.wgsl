// The core of the recurrences, first half: a state of ROWS x 4 values in the registers of each invocation, and the rank-one
// updates that write it.
//
// A workgroup holds DIM rows (features) by 4 COL_THREADS columns (values) of the state of one key head. Invocation
// (row_thread, col_thread) owns rows row_thread * ROWS .. and four columns. Tokens come in tiles of TILE through
// workgroup memory and are walked one after another, so a row of features meets the state exactly as the definition
// has it: no masks, no scores, and what a later token holds cannot touch an earlier output.
//
// Consts of the prelude: TILE, ROWS (a multiple of 4), ROW_THREADS, COL_THREADS. From the operator: NORMALIZE.
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const ROWS4: u32 = ROWS / 4u;
const DIM4: u32 = ROW_THREADS * ROWS4;

// Features of the keys, [TILE][DIM4], and values, [TILE][COL_THREADS]; zero past the end and past the dimensions.
var<workgroup> wg_k: array<vec4<f32>, TILE * DIM4>;
var<workgroup> wg_v: array<vec4<f32>, TILE * COL_THREADS>;

var<private> state_rows: array<vec4<f32>, ROWS>;
// Sums of features of the same rows; held by every column thread, which is cheaper than sharing it.
var<private> norm_rows: array<vec4<f32>, ROWS4>;

fn clear_state() {
    for (var i = 0u; i < ROWS; i++) {
        state_rows[i] = vec4<f32>(0.0);
    }
    for (var i = 0u; i < ROWS4; i++) {
        norm_rows[i] = vec4<f32>(0.0);
    }
}

// S += phi(k_t) v_t^T, z += phi(k_t) for token t of the tile.
fn write_state(t: u32, row_thread: u32, col_thread: u32) {
    let v = wg_v[t * COL_THREADS + col_thread];
    for (var i = 0u; i < ROWS4; i++) {
        let k = wg_k[t * DIM4 + row_thread * ROWS4 + i];
        state_rows[4u * i] += k.x * v;
        state_rows[4u * i + 1u] += k.y * v;
        state_rows[4u * i + 2u] += k.z * v;
        state_rows[4u * i + 3u] += k.w * v;
        if (NORMALIZE == 1u) {
            norm_rows[i] += k;
        }
    }
}
