// Scores of a pair of chunks: products of features of queries and keys, in the cells of chunk.wgsl.

// The queries of a chunk, and keys that they are multiplied with: from token `first` up to `end`, from `key` up to `key_end`.
// `own` says that these are the same tokens.
struct Pair {
    first: u32,
    end: u32,
    key: u32,
    key_end: u32,
    own: bool,
}

// Loads a slice of queries: what keys are multiplied with, and these keys, if `scores`; otherwise what a state is multiplied
// with. All loads are issued before the first store.
fn load_vectors(p: Place, slice: u32, pair: Pair, scores: bool, invocation: u32) {
    var queries: array<vec4<f32>, QUERY_TURNS>;
    var keys: array<vec4<f32>, QUERY_TURNS>;
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let token = (invocation + turn * INVOCATIONS) / SLICE4;
        let i = slice * SLICE4 + invocation % SLICE4;
        if (scores) {
            queries[turn] = query_group(p, p.head_split, pair.first + token, pair.end, i);
            keys[turn] = key_group(p, pair.key + token, pair.key_end, i);
        } else {
            queries[turn] = state_group(p, p.head_split, pair.first + token, pair.end, i);
        }
    }
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        wg_rows[i] = queries[turn];
        if (scores) {
            wg_keys[i / SLICE4 * KEY_STRIDE + i % SLICE4] = keys[turn];
        }
    }
}

// Adds the products of slices start .. stop to the cells, of each slice those of the first groups.
fn add_scores(p: Place, pair: Pair, start: u32, stop: u32, groups: u32, invocation: u32) {
    let row_thread = same_in_row(invocation / COL_THREADS);
    for (var slice = start; slice < stop; slice++) {
        workgroupBarrier();
        load_vectors(p, slice, pair, true, invocation);
        workgroupBarrier();
        add_slice(row_thread, invocation % COL_THREADS, groups, pair.own, true, false);
    }
}

// Makes the cells scores.
fn score(p: Place, pair: Pair, invocation: u32) {
    clear_cells();
    if (FIRST4 == 0u) {
        add_scores(p, pair, 0u, SCORE_SLICES, SLICE4, invocation);
        return;
    }
    add_scores(p, pair, 0u, FIRST_SLICES, min(SLICE4, FIRST4), invocation);
    let products = cells;
    clear_cells();
    add_scores(p, pair, FIRST_SLICES, SCORE_SLICES, min(SLICE4, SECOND4), invocation);
    for (var i = 0u; i < EACH * PARTS; i++) {
        cells[i] *= products[i];
    }
}
