// Chunk form of the recurrences: products of a chunk of CHUNK tokens with a state and with other tokens, by tiles in registers.
//
// Invocation (row_thread, col_thread) has the tokens row_thread + ROW_THREADS i of a chunk, for i below EACH. Of a product
// with keys it has the keys col_thread + COL_THREADS j (`cells`), of a product with a state or with values the four columns
// from 4 col_thread on (`sums`). Features come in slices of four groups of four, values in parts of COL_THREADS tokens. These
// places leave out most products with later keys when the kernel is compiled: see is_reached.
//
// Prelude constants: ROW_THREADS, COL_THREADS; WIDTH, the number of features; CHUNKS, the largest number of chunks of a
// segment. A variant brings key_group, query_group, FEATURES4 and feature_row (chunk_mapped.wgsl or the operator's own), and
// load_logs, left_since_start, left_between and scale_of (chunk_decay.wgsl or chunk_no_decay.wgsl).
const CHUNK: u32 = 64u;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const EACH: u32 = CHUNK / ROW_THREADS;
const FOURS: u32 = EACH / 4u;
const PARTS: u32 = CHUNK / COL_THREADS;
const SLICE4: u32 = 4u;
const SLICES: u32 = (FEATURES4 + SLICE4 - 1u) / SLICE4;
const TOKENS: u32 = CHUNKS * CHUNK;
// One group of padding per key, so that keys start in different banks.
const KEY_STRIDE: u32 = SLICE4 + 1u;

// A slice of the queries, [CHUNK][SLICE4]; then a part of the weights, [ROW_THREADS][FOURS][COL_THREADS], in vectors of four
// tokens of a row thread.
var<workgroup> wg_rows: array<vec4<f32>, CHUNK * SLICE4>;
// A slice of the keys, [CHUNK][KEY_STRIDE]; then sums of weights, [ROW_THREADS][FOURS][COL_THREADS].
var<workgroup> wg_keys: array<vec4<f32>, CHUNK * KEY_STRIDE>;
// A slice of the state, [4 SLICE4][COL_THREADS]; then the values of a part, [COL_THREADS][COL_THREADS].
var<workgroup> wg_columns: array<vec4<f32>, 4u * SLICE4 * COL_THREADS>;

var<private> cells: array<f32, EACH * PARTS>;
var<private> sums: array<vec4<f32>, EACH>;
// Sums of weights: this invocation's share.
var<private> shares: array<f32, EACH>;

// Whether a token row_thread + ROW_THREADS i follows a key col_thread + COL_THREADS j of the same chunk, for any threads.
fn is_reached(i: u32, j: u32) -> bool {
    return ROW_THREADS * (i + 1u) > COL_THREADS * j;
}

fn clear_cells() {
    for (var i = 0u; i < EACH * PARTS; i++) {
        cells[i] = 0.0;
    }
}

const QUERY_TURNS: u32 = CHUNK * SLICE4 / INVOCATIONS;
const STATE_TURNS: u32 = 4u * SLICE4 * COL_THREADS / INVOCATIONS;

// Loads a slice: of the queries from token `first` up to `end`, of the keys from token `key` up to `key_end`, and of the state
// that starts at `base` among the stored segments, if `own`. All loads are issued before the first store.
fn load_slice(
    p: Place,
    slice: u32,
    first: u32,
    end: u32,
    key: u32,
    key_end: u32,
    base: u32,
    own: bool,
    invocation: u32,
) {
    var queries: array<vec4<f32>, QUERY_TURNS>;
    var keys: array<vec4<f32>, QUERY_TURNS>;
    var states: array<vec4<f32>, STATE_TURNS>;
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let token = (invocation + turn * INVOCATIONS) / SLICE4;
        let i = slice * SLICE4 + invocation % SLICE4;
        queries[turn] = query_group(p, p.head_split, first + token, end, i);
        keys[turn] = key_group(p, key + token, key_end, i);
    }
    if (own) {
        let e = (p.split * COL_THREADS + invocation % COL_THREADS) * 4u;
        for (var turn = 0u; turn < STATE_TURNS; turn++) {
            let d = feature_row(slice * 4u * SLICE4 + (invocation + turn * INVOCATIONS) / COL_THREADS);
            count_load(select(0u, four_of(e, params.dim_v), d < params.rows));
            let row = stored_row(base + min(d, params.rows - 1u) * params.dim_v, e);
            // Past the last row a state is zero.
            states[turn] = select(vec4<f32>(0.0), row, d < params.rows);
        }
    }
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        wg_rows[i] = queries[turn];
        wg_keys[i / SLICE4 * KEY_STRIDE + i % SLICE4] = keys[turn];
    }
    if (own) {
        for (var turn = 0u; turn < STATE_TURNS; turn++) {
            wg_columns[invocation + turn * INVOCATIONS] = states[turn];
        }
    }
}

// Adds the products of a slice of queries with keys, those of the same chunk if `own`, and then also with the state.
fn add_slice(row_thread: u32, col_thread: u32, own: bool) {
    for (var c = 0u; c < SLICE4; c++) {
        var keys: array<vec4<f32>, PARTS>;
        for (var j = 0u; j < PARTS; j++) {
            keys[j] = wg_keys[(col_thread + COL_THREADS * j) * KEY_STRIDE + c];
        }
        var state: array<vec4<f32>, 4>;
        if (own) {
            for (var d = 0u; d < 4u; d++) {
                state[d] = wg_columns[(4u * c + d) * COL_THREADS + col_thread];
            }
        }
        for (var i = 0u; i < EACH; i++) {
            let q = wg_rows[(row_thread + ROW_THREADS * i) * SLICE4 + c];
            for (var j = 0u; j < PARTS; j++) {
                if (!own || is_reached(i, j)) {
                    var cell = cells[i * PARTS + j];
                    cell += q.x * keys[j].x;
                    cell += q.y * keys[j].y;
                    cell += q.z * keys[j].z;
                    cell += q.w * keys[j].w;
                    cells[i * PARTS + j] = cell;
                }
            }
            if (own) {
                sums[i] += q.x * state[0];
                sums[i] += q.y * state[1];
                sums[i] += q.z * state[2];
                sums[i] += q.w * state[3];
            }
        }
    }
}

// Turns cells into weights: of tokens from `token` on for keys from `key` on, which are numbered from the start of the segment.
fn weigh(token: u32, key: u32, row_thread: u32, col_thread: u32, own: bool) {
    for (var i = 0u; i < EACH; i++) {
        let t = row_thread + ROW_THREADS * i;
        for (var j = 0u; j < PARTS; j++) {
            if (!own || is_reached(i, j)) {
                let s = col_thread + COL_THREADS * j;
                // What a token does not see must not reach an exponential.
                let seen = !own || s <= t;
                let factor = left_between(token + t, key + select(t, s, seen)) * scale_of(key + s);
                let weight = select(0.0, cells[i * PARTS + j] * factor, seen);
                cells[i * PARTS + j] = weight;
                if (NORMALIZE == 1u) {
                    shares[i] += weight;
                }
            }
        }
    }
}

const VALUE_TURNS: u32 = COL_THREADS * COL_THREADS / INVOCATIONS;

// Adds the values of part j of a chunk from token `first` on, times their weights.
fn add_part(p: Place, first: u32, end: u32, j: u32, own: bool, row_thread: u32, col_thread: u32, invocation: u32) {
    var values: array<vec4<f32>, VALUE_TURNS>;
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        let s = j * COL_THREADS + (invocation + turn * INVOCATIONS) / COL_THREADS;
        values[turn] = chunk_values(p, first + s, end, invocation % COL_THREADS);
    }
    workgroupBarrier();
    for (var f = 0u; f < FOURS; f++) {
        wg_rows[(row_thread * FOURS + f) * COL_THREADS + col_thread] = vec4<f32>(
            cells[4u * f * PARTS + j],
            cells[(4u * f + 1u) * PARTS + j],
            cells[(4u * f + 2u) * PARTS + j],
            cells[(4u * f + 3u) * PARTS + j],
        );
    }
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        wg_columns[invocation + turn * INVOCATIONS] = values[turn];
    }
    workgroupBarrier();
    for (var s = 0u; s < COL_THREADS; s++) {
        let v = wg_columns[s * COL_THREADS + col_thread];
        for (var f = 0u; f < FOURS; f++) {
            if (!own || is_reached(4u * f + 3u, j)) {
                let weights = wg_rows[(row_thread * FOURS + f) * COL_THREADS + s];
                if (!own || is_reached(4u * f, j)) {
                    sums[4u * f] += weights.x * v;
                }
                if (!own || is_reached(4u * f + 1u, j)) {
                    sums[4u * f + 1u] += weights.y * v;
                }
                if (!own || is_reached(4u * f + 2u, j)) {
                    sums[4u * f + 2u] += weights.z * v;
                }
                sums[4u * f + 3u] += weights.w * v;
            }
        }
    }
}

// Adds the values of all keys of a chunk. The parts are written out, so that what is_reached leaves out is known.
fn add_values(p: Place, first: u32, end: u32, own: bool, row_thread: u32, col_thread: u32, invocation: u32) {
    add_part(p, first, end, 0u, own, row_thread, col_thread, invocation);
    add_part(p, first, end, 1u, own, row_thread, col_thread, invocation);
    add_part(p, first, end, 2u, own, row_thread, col_thread, invocation);
    add_part(p, first, end, 3u, own, row_thread, col_thread, invocation);
}
