// Recurrence, pass 2 of the chunk form: the outputs of one chunk of a segment, from the state before the segment, the chunk's
// own tokens, and those of the chunks of the segment before it. Grid: chunks of a segment, column splits, query heads of a KV
// head, segments, KV heads. Reads q, k, v, segments; writes o.
//
// A variant brings, in addition to what chunk.wgsl needs: find_scores(p, pair, number, invocation), which makes the cells
// scores of this pair of chunks of the segment, and SCORES_STORED (chunk_scores_computed.wgsl or chunk_scores_stored.wgsl);
// chunk_values(p, n, end, col_thread), four values of a token, and state_before(p), the stored state that a segment starts from
// (chunk_values.wgsl, or the operator's own); normalize(row, sum, weight) and epilogue(p, n, t, i, o) as for output.wgsl.

// The share of this invocation in the sums of weights of its tokens.
var<private> shares: array<f32, EACH>;

// Whether scores of a chunk's own keys are computed together with the products with the state, from the same queries.
const BESIDE_STATE: bool = FIRST4 == 0u && !SCORES_STORED;

const STATE_TURNS: u32 = 4u * SLICE4 * COL_THREADS / INVOCATIONS;

// Loads a slice of queries and of the state that starts at `base` among the stored segments, and of keys if `scores`. All
// loads are issued before the first store.
fn load_slice(p: Place, slice: u32, pair: Pair, base: u32, scores: bool, invocation: u32) {
    var states: array<vec4<f32>, STATE_TURNS>;
    let e = (p.split * COL_THREADS + invocation % COL_THREADS) * 4u;
    for (var turn = 0u; turn < STATE_TURNS; turn++) {
        let d = feature_row(slice * 4u * SLICE4 + (invocation + turn * INVOCATIONS) / COL_THREADS);
        count_load(select(0u, four_of(e, params.dim_v), d < params.rows));
        let row = stored_row(base + min(d, params.rows - 1u) * params.dim_v, e);
        // Past the last row a state is zero.
        states[turn] = select(vec4<f32>(0.0), row, d < params.rows);
    }
    load_vectors(p, slice, pair, scores, invocation);
    for (var turn = 0u; turn < STATE_TURNS; turn++) {
        wg_columns[invocation + turn * INVOCATIONS] = states[turn];
    }
}

// Turns cells into weights: of tokens from `token` on for keys from `key` on, which are numbered from the start of the segment.
fn weigh(token: u32, key: u32, row_thread: u32, col_thread: u32, own: bool) {
    for (var i = 0u; i < EACH; i++) {
        let t = row_thread + ROW_THREADS * i;
        for (var j = 0u; j < PARTS; j++) {
            if (!own || is_reached(i, j)) {
                let s = col_thread + COL_THREADS * j;
                // What a token does not see must not reach a power of two.
                let seen = !own || is_behind(i, j) || s <= t;
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

// Adds the shares that the column threads of a row thread have of sums of weights, and returns the sums of four rows.
fn row_weights(row_thread: u32, f: u32) -> vec4<f32> {
    let home = (row_thread * FOURS + f) * COL_THREADS;
    var sum = wg_keys[home];
    for (var i = 1u; i < COL_THREADS; i++) {
        sum += wg_keys[home + i];
    }
    return sum;
}

fn store_chunk(p: Place, first: u32, end: u32, row_thread: u32, col_thread: u32) {
    if (NORMALIZE == 1u) {
        workgroupBarrier();
        for (var f = 0u; f < FOURS; f++) {
            wg_keys[(row_thread * FOURS + f) * COL_THREADS + col_thread] =
                vec4<f32>(shares[4u * f], shares[4u * f + 1u], shares[4u * f + 2u], shares[4u * f + 3u]);
        }
        workgroupBarrier();
    }
    for (var f = 0u; f < FOURS; f++) {
        var weights = vec4<f32>(0.0);
        if (NORMALIZE == 1u) {
            weights = row_weights(row_thread, f);
        }
        for (var i = 0u; i < 4u; i++) {
            let t = row_thread + ROW_THREADS * (4u * f + i);
            store_output(p, first, end, t, col_thread, sums[4u * f + i], weights[i]);
        }
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn recurrence_chunk(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let chunks = (params.segment + CHUNK - 1u) / CHUNK;
    let home = place(index / chunks, params.queries, invocation);
    let own = index % chunks;
    let start = home.span.first;
    let first = start + own * CHUNK;
    let end = min(first + CHUNK, home.span.end);
    if (first >= end) {
        return;
    }
    let p = shared_place(home);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    load_logs(p, start, end, invocation);
    clear_cells();
    for (var i = 0u; i < EACH; i++) {
        sums[i] = vec4<f32>(0.0);
        shares[i] = 0.0;
    }
    let base = (p.kv * params.stored_segments + state_before(p)) * params.segment_stride;
    let pair = Pair(first, end, first, end, true);
    // Factors are multiplied before the products with a state need registers, and loads of scores are issued early.
    if (!BESIDE_STATE) {
        find_scores(p, pair, own * (own + 1u) / 2u + own, invocation);
    }
    for (var slice = 0u; slice < SLICES; slice++) {
        workgroupBarrier();
        load_slice(p, slice, pair, base, BESIDE_STATE, invocation);
        var norm = 0.0;
        if (NORMALIZE == 1u) {
            let d = feature_row(slice * 4u * SLICE4 + col_thread);
            count_load(select(0u, 1u, d < params.rows && row_thread == 0u));
            norm = select(0.0, segment_at(base + params.rows * params.dim_v + min(d, params.rows - 1u)), d < params.rows);
        }
        workgroupBarrier();
        add_slice(row_thread, col_thread, SLICE4, true, BESIDE_STATE, true);
        if (NORMALIZE == 1u) {
            for (var i = 0u; i < EACH; i++) {
                let at = (row_thread + ROW_THREADS * i) * SLICE4 + col_thread / 4u;
                shares[i] += wg_rows[at][col_thread % 4u] * norm;
            }
        }
    }
    for (var i = 0u; i < EACH; i++) {
        let left = left_since_start(own * CHUNK + row_thread + ROW_THREADS * i);
        sums[i] *= left;
        shares[i] *= left;
    }
    weigh(own * CHUNK, own * CHUNK, row_thread, col_thread, true);
    add_values(p, first, end, true, row_thread, col_thread, invocation);
    if (CHUNKS > 1u) {
        for (var chunk = 0u; chunk < own; chunk++) {
            let key = start + chunk * CHUNK;
            find_scores(p, Pair(first, end, key, key + CHUNK, false), own * (own + 1u) / 2u + chunk, invocation);
            weigh(own * CHUNK, chunk * CHUNK, row_thread, col_thread, false);
            add_values(p, key, key + CHUNK, false, row_thread, col_thread, invocation);
        }
    }
    store_chunk(p, first, end, row_thread, col_thread);
}
