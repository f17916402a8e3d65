// The core of the recurrences, first half: a state of ROWS x 4 values in the registers of each invocation, and the rank-one
// updates that write it.
//
// A workgroup holds DIM rows (features) by 4 COL_THREADS columns (values) of the state of one key head. Invocation
// (row_thread, col_thread) owns rows row_thread * ROWS .. and four columns. Tokens come in tiles of TILE through
// workgroup memory and are walked one after another, so a row of features meets the state exactly as the definition
// has it: no masks, no scores, and what a later token holds cannot touch an earlier output.
//
// Consts of the prelude: TILE, ROWS (a multiple of 4), ROW_THREADS, COL_THREADS; DECAY, whether a token lets the state decay
// before it writes: 0 no, 1 all rows by one factor, 2 each row by its own. From the operator: key_features(t, i), the
// features of token t of the tile, four from row 4 i on; state_row(i), the row that row i of a workgroup is of the state as
// it is stored, or one past its end; load_keys, which fills a tile, and finish_tile, which makes features of what was loaded;
// decay(t, i), how four rows decay (decay.wgsl), and its logarithm log_decay(t, i), value_scale(t), the factor of a token's values, and load_decay for both.
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const ROWS4: u32 = ROWS / 4u;
const DIM4: u32 = ROW_THREADS * ROWS4;

// Values, [TILE][COL_THREADS]; zero past the end and past the dimensions.
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

// S = decay S + phi(k_t) v_t^T, z = decay z + phi(k_t) for token t of the tile.
fn write_state(t: u32, row_thread: u32, col_thread: u32) {
    let v = value_scale(t) * wg_v[t * COL_THREADS + col_thread];
    for (var i = 0u; i < ROWS4; i++) {
        let k = key_features(t, row_thread * ROWS4 + i);
        if (DECAY != 0u) {
            let kept = decay(t, row_thread * ROWS4 + i);
            state_rows[4u * i] = left_of(kept.xxxx, state_rows[4u * i]);
            state_rows[4u * i + 1u] = left_of(kept.yyyy, state_rows[4u * i + 1u]);
            state_rows[4u * i + 2u] = left_of(kept.zzzz, state_rows[4u * i + 2u]);
            state_rows[4u * i + 3u] = left_of(kept.wwww, state_rows[4u * i + 3u]);
            if (NORMALIZE == 1u) {
                norm_rows[i] = left_of(kept, norm_rows[i]);
            }
        }
        state_rows[4u * i] += k.x * v;
        state_rows[4u * i + 1u] += k.y * v;
        state_rows[4u * i + 2u] += k.z * v;
        state_rows[4u * i + 3u] += k.w * v;
        if (NORMALIZE == 1u) {
            norm_rows[i] += k;
        }
    }
}

fn load_v(at: u32, e: u32) -> f32 {
    if (e >= params.dim_v) {
        return 0.0;
    }
    count_load(1u);
    return f32(v[at + e]);
}

// Values of tokens first .. first + TILE of one key head, those from `end` on as zeros.
fn load_values(p: Place, first: u32, end: u32, invocation: u32) {
    let v_head = head_start(params.v, p.kv / params.kv_heads, p.kv % params.kv_heads);
    for (var i = invocation; i < TILE * COL_THREADS; i += INVOCATIONS) {
        let n = first + i / COL_THREADS;
        let e = (p.split * COL_THREADS + i % COL_THREADS) * 4u;
        var row = vec4<f32>(0.0);
        if (n < end) {
            let at = v_head + n * params.v.token;
            row = vec4<f32>(load_v(at, e), load_v(at, e + 1u), load_v(at, e + 2u), load_v(at, e + 3u));
        }
        wg_v[i] = row;
    }
}
