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
// features of token t of the tile, four from row 4 i on, and key_feature_at(t, d), that of row d; state_row(i), the row of the
// stored state that row i of the workgroup is, or a row past its end; finish_tile, which computes features of a tile that is
// loaded; decay(t, i), the decay factors of four rows (decay.wgsl), their logarithm log_decay(t, i), value_scale(t), a
// factor for the token's values, and what prepares these: load_decays for BATCH tokens, load_decay for a tile; and by_token.wgsl
// or decay_batches.wgsl.
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const ROWS4: u32 = ROWS / 4u;
const DIM4: u32 = ROW_THREADS * ROWS4;

// Tokens whose decay is prepared at a time, a multiple of TILE, and the first token of the tile among them.
const BATCH: u32 = 32u;
var<private> tile_start: u32;

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
        if (BY_BATCH) {
            norm_rows[i] += left_of_token(t) * key_feature_at(t, row);
        } else if (DECAY == 0u) {
            norm_rows[i] += key_feature_at(t, row);
        } else {
            norm_rows[i] = decay(t, row / 4u)[row % 4u] * norm_rows[i] + key_feature_at(t, row);
        }
    }
}

// S = decay S + phi(k_t) v_t^T, z = decay z + phi(k_t) for token t of the tile.
fn rank_one_update(t: u32, row_thread: u32, col_thread: u32) {
    let v = left_of_token(t) * value_scale(t) * wg_v[t * COL_THREADS + col_thread];
    for (var i = 0u; i < ROWS4; i++) {
        let k = key_features(t, row_thread * ROWS4 + i);
        if (DECAY == 0u || BY_BATCH) {
            state_rows[4u * i] += k.x * v;
            state_rows[4u * i + 1u] += k.y * v;
            state_rows[4u * i + 2u] += k.z * v;
            state_rows[4u * i + 3u] += k.w * v;
        } else {
            let left = decay(t, row_thread * ROWS4 + i);
            state_rows[4u * i] = left.x * state_rows[4u * i] + k.x * v;
            state_rows[4u * i + 1u] = left.y * state_rows[4u * i + 1u] + k.y * v;
            state_rows[4u * i + 2u] = left.z * state_rows[4u * i + 2u] + k.z * v;
            state_rows[4u * i + 3u] = left.w * state_rows[4u * i + 3u] + k.w * v;
        }
    }
    if (NORMALIZE == 1u) {
        update_norm(t, row_thread * COL_THREADS + col_thread);
    }
}
