// Chunk form of the recurrences: products of a chunk of CHUNK tokens with a state and with other tokens, by tiles in registers.
//
// Invocation (row_thread, col_thread) has the tokens row_thread + ROW_THREADS i of a chunk, for i below EACH. Of a product
// with keys it has the keys col_thread + COL_THREADS j (`cells`), of a product with a state or with values the four columns
// from 4 col_thread on (`sums`). Features come in slices of SLICE4 groups of four, values in parts of COL_THREADS tokens. These
// places leave out most products with later keys when the kernel is compiled: see is_reached.
//
// Features may be products of two factors: all entries of the first times all entries of the second. Then a score is the
// product of the first factors times that of the second ones, and takes far fewer multiplications than the features.
//
// Prelude constants: ROW_THREADS, COL_THREADS; WIDTH, the number of features; SLICE4, groups of features in a slice; CHUNKS,
// the largest number of chunks of a segment; READS_STATE, 1 if queries also read a state. A variant brings FIRST4 and
// SECOND4, the groups of four of the factors (FIRST4 is 0 if features are no products), and STATE4, those of the features;
// key_group and query_group, group i of the slices of the first factor, then of those of the second; state_group, group i of
// the features of queries, and feature_row, the row of the stored state of a feature (chunk_mapped.wgsl or the operator's
// own); and load_logs, left_since_start, left_between and scale_of (chunk_decay.wgsl or chunk_no_decay.wgsl).
const CHUNK: u32 = 64u;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const EACH: u32 = CHUNK / ROW_THREADS;
const FOURS: u32 = EACH / 4u;
const PARTS: u32 = CHUNK / COL_THREADS;
const FIRST_SLICES: u32 = (FIRST4 + SLICE4 - 1u) / SLICE4;
const SCORE_SLICES: u32 = FIRST_SLICES + (SECOND4 + SLICE4 - 1u) / SLICE4;
const SLICES: u32 = (STATE4 + SLICE4 - 1u) / SLICE4;
const TOKENS: u32 = CHUNKS * CHUNK;
// One group of padding per key, so that keys start in different banks.
const KEY_STRIDE: u32 = SLICE4 + 1u;

// A slice of the queries, [CHUNK][SLICE4]; then a part of the weights, [ROW_THREADS][FOURS][COL_THREADS], in vectors of four
// tokens of a row thread.
var<workgroup> wg_rows: array<vec4<f32>, CHUNK * SLICE4>;
// A slice of the keys, [CHUNK][KEY_STRIDE]; then sums of weights, [ROW_THREADS][FOURS][COL_THREADS].
var<workgroup> wg_keys: array<vec4<f32>, CHUNK * KEY_STRIDE>;
// A slice of the state, [4 SLICE4][COL_THREADS]; then the values of a part, [COL_THREADS][COL_THREADS].
var<workgroup> wg_columns: array<vec4<f32>, select(1u, max(4u * SLICE4, COL_THREADS) * COL_THREADS, READS_STATE == 1u)>;

var<private> cells: array<f32, EACH * PARTS>;
var<private> sums: array<vec4<f32>, EACH>;

// Whether a token row_thread + ROW_THREADS i follows a key col_thread + COL_THREADS j of the same chunk, for any threads.
fn is_reached(i: u32, j: u32) -> bool {
    return ROW_THREADS * (i + 1u) > COL_THREADS * j;
}

// Whether all such tokens follow all such keys.
fn is_behind(i: u32, j: u32) -> bool {
    return ROW_THREADS * i >= COL_THREADS * (j + 1u);
}

fn clear_cells() {
    for (var i = 0u; i < EACH * PARTS; i++) {
        cells[i] = 0.0;
    }
}

const QUERY_TURNS: u32 = CHUNK * SLICE4 / INVOCATIONS;

// Adds the products of the first groups of a slice of queries: with keys if `scores`, which are those of the same chunk if
// `own`; with a state if `reads`.
fn add_slice(row_thread: u32, col_thread: u32, groups: u32, own: bool, scores: bool, reads: bool) {
    for (var c = 0u; c < groups; c++) {
        var keys: array<vec4<f32>, PARTS>;
        if (scores) {
            for (var j = 0u; j < PARTS; j++) {
                keys[j] = wg_keys[(col_thread + COL_THREADS * j) * KEY_STRIDE + c];
            }
        }
        var state: array<vec4<f32>, 4>;
        if (reads) {
            for (var d = 0u; d < 4u; d++) {
                state[d] = wg_columns[(4u * c + d) * COL_THREADS + col_thread];
            }
        }
        for (var i = 0u; i < EACH; i++) {
            let q = wg_rows[(row_thread + ROW_THREADS * i) * SLICE4 + c];
            for (var j = 0u; j < PARTS; j++) {
                if (scores && (!own || is_reached(i, j))) {
                    var cell = cells[i * PARTS + j];
                    cell += q.x * keys[j].x;
                    cell += q.y * keys[j].y;
                    cell += q.z * keys[j].z;
                    cell += q.w * keys[j].w;
                    cells[i * PARTS + j] = cell;
                }
            }
            if (reads) {
                sums[i] += q.x * state[0];
                sums[i] += q.y * state[1];
                sums[i] += q.z * state[2];
                sums[i] += q.w * state[3];
            }
        }
    }
}

