// Core of the recurrences, first half: each invocation keeps ROWS x 4 values of the state in registers and applies the
// rank-one updates that write it.
//
// A workgroup holds DIM rows (features) times 4 COL_THREADS columns (values) of one KV head's state. Invocation (row_thread,
// col_thread) owns rows row_thread * ROWS .. and four columns. Tokens are loaded into workgroup memory in tiles of TILE and
// processed one after another, exactly as in the definition. This needs no masks and no scores, and a later token cannot
// affect an earlier output.
//
// Prelude constants: TILE, ROWS (a multiple of 4), ROW_THREADS, COL_THREADS; DECAY, how the state decays before a token
// writes: 0 not at all, 1 one factor for all rows, 2 one factor per row. The operator defines: key_features(t, i), the
// features of token t of the tile, four from row 4 i on; state_row(i), the row of the stored state that row i of the
// workgroup is, or a row past its end; load_keys, which fills a tile, and finish_tile, which computes features from it;
// decay(t, i), the decay factors of four rows (decay.wgsl), their logarithm log_decay(t, i), value_scale(t), a factor for the
// token's values, and load_decay, which prepares these.
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const ROWS4: u32 = ROWS / 4u;
const DIM4: u32 = ROW_THREADS * ROWS4;

// Values, [TILE][COL_THREADS]; zero past the last token and past the value dimension.
var<workgroup> wg_v: array<vec4<f32>, TILE * COL_THREADS>;

var<private> state_rows: array<vec4<f32>, ROWS>;
// Sums of features of the same rows. Every column thread holds a copy, which is cheaper than sharing one.
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
fn rank_one_update(t: u32, row_thread: u32, col_thread: u32) {
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

// Loads the values of tokens first .. first + TILE of one KV head, with zeros from token `end` on.
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
