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
// features of token t of the tile, four from row 4 i on, and key_feature_at(t, d), that of row d; state_row(i), the row of the stored state that row i of the
// workgroup is, or a row past its end; load_keys, which fills a tile, and finish_tile, which computes features from it;
// decay(t, i), the decay factors of four rows (decay.wgsl), their logarithm log_decay(t, i), value_scale(t), a factor for the
// token's values, and load_decay, which prepares these.
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const ROWS4: u32 = ROWS / 4u;
const DIM4: u32 = ROW_THREADS * ROWS4;

// Values, [TILE][COL_THREADS].
var<workgroup> wg_v: array<vec4<f32>, TILE * COL_THREADS>;

var<private> state_rows: array<vec4<f32>, ROWS>;
// Sums of features: of the rows invocation, invocation + INVOCATIONS, ..
const NORM_ROWS: u32 = (4u * DIM4 + INVOCATIONS - 1u) / INVOCATIONS;
var<private> norm_rows: array<f32, NORM_ROWS>;

fn clear_state() {
    for (var i = 0u; i < ROWS; i++) {
        state_rows[i] = vec4<f32>(0.0);
    }
    for (var i = 0u; i < NORM_ROWS; i++) {
        norm_rows[i] = 0.0;
    }
}

// z = decay z + phi(k_t) for the rows of this invocation.
fn update_norm(t: u32, invocation: u32) {
    for (var i = 0u; i < NORM_ROWS; i++) {
        let row = min(invocation + i * INVOCATIONS, 4u * DIM4 - 1u);
        if (DECAY != 0u) {
            norm_rows[i] = left_of(vec4<f32>(decay(t, row / 4u)[row % 4u]), vec4<f32>(norm_rows[i])).x;
        }
        norm_rows[i] += key_feature_at(t, row);
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
        }
        state_rows[4u * i] += k.x * v;
        state_rows[4u * i + 1u] += k.y * v;
        state_rows[4u * i + 2u] += k.z * v;
        state_rows[4u * i + 3u] += k.w * v;
    }
    if (NORMALIZE == 1u) {
        update_norm(t, row_thread * COL_THREADS + col_thread);
    }
}

// Loads the values of tokens first .. first + TILE of one KV head. Tokens from `end` on repeat the last one: their features are
// zero. Columns past the value dimension are never stored.
fn load_values(p: Place, first: u32, end: u32, invocation: u32) {
    let v_head = head_start(params.v, p.b, p.g);
    for (var turn = 0u; turn < (TILE * COL_THREADS + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((TILE * COL_THREADS) % INVOCATIONS != 0u && i >= TILE * COL_THREADS) {
            break;
        }
        let n = first + i / COL_THREADS;
        let e = (p.split * COL_THREADS + i % COL_THREADS) * 4u;
        count_load(select(0u, four_of(e, params.dim_v), n < end));
        wg_v[i] = load_v(v_head + min(n, end - 1u) * params.v.token, e);
    }
}
