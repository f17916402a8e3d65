// Rotary positions: pairs of columns of q and k, half of the rotated ones apart, turn by an angle that grows with the position of
// their token. With a cache, k and v are written to its rows by position; rows behind its end are not written.
// Grid: blocks of 64 ITEMS items, those of a token one after another: of q, k and v. An item is COLUMNS pairs of columns, or
// COLUMNS columns that are copied. Reads q, k, v, position; writes q_out, k_out, v_out.
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Stored>; // B, H, N, D; a dummy if there is none
@group(0) @binding(K_BINDING) var<storage, read> k: array<Stored>; // B, G, N, D
@group(0) @binding(V_BINDING) var<storage, read> v: array<Stored>; // B, G, N, E; a dummy without a cache
@group(0) @binding(POSITION_BINDING) var<storage, read> position: array<u32>; // 1; a dummy if it is not given
@group(0) @binding(Q_OUT_BINDING) var<storage, read_write> q_out: array<Stored>; // as q
@group(0) @binding(K_OUT_BINDING) var<storage, read_write> k_out: array<Stored>; // as k, or the cache of k
@group(0) @binding(V_OUT_BINDING) var<storage, read_write> v_out: array<Stored>; // the cache of v; a dummy without one

override POSITION: u32 = 0u; // whether `position` has the number of tokens up to the last of this run
override CACHE: u32 = 0u; // whether k_out and v_out are a cache

// Index of the first piece of a row.
fn row_start(s: Strides, batch: u32, head: u32, token: u32) -> u32 {
    return (head_start(s, batch, head) + token * s.token) / COLUMNS;
}

// One item of all.
fn rotate(at: u32) {
    let pairs = params.pairs / COLUMNS;
    let per_row = params.dim / COLUMNS - pairs;
    let values_per_row = params.dim_v / COLUMNS;
    let queries = params.heads * per_row;
    let keys = params.kv_heads * per_row;
    let per_token = queries + keys + params.kv_heads * values_per_row;
    let token = at / per_token;
    if (token >= params.tokens) {
        return;
    }
    let item = at % per_token;
    let batch = token / params.len;
    let n = token % params.len;
    var before = params.before;
    if (POSITION > 0u) {
        count_load(1u);
        before = position[0] - params.len;
    }
    let of_queries = item < queries;
    let to = select(n, before + n, CACHE > 0u);
    if (!of_queries && to >= params.rows) {
        return;
    }

    if (item >= queries + keys) {
        let head = (item - queries - keys) / values_per_row;
        let e = (item - queries - keys) % values_per_row;
        count_load(COLUMNS);
        count_store(COLUMNS);
        v_out[row_start(params.v_out, batch, head, to) + e] = v[row_start(params.v, batch, head, n) + e];
        return;
    }
    let head = select(item - queries, item, of_queries) / per_row;
    let piece = select(item - queries, item, of_queries) % per_row;
    var source = row_start(params.k, batch, head, n);
    var target_row = row_start(params.k_out, batch, head, to);
    if (of_queries) {
        source = row_start(params.q, batch, head, n);
        target_row = row_start(params.q_out, batch, head, n);
    }
    // The pieces behind the pairs are copied.
    let rotated = piece < pairs;
    let d = select(piece + pairs, piece, rotated);
    var x: Stored;
    if (of_queries) {
        x = q[source + d];
    } else {
        x = k[source + d];
    }
    count_load(COLUMNS);
    if (rotated) {
        var y: Stored;
        if (of_queries) {
            y = q[source + d + pairs];
        } else {
            y = k[source + d + pairs];
        }
        count_load(COLUMNS);
        let turn = turn_of(piece, before + n);
        let second = Stored(Columns(y) * turn.c + Columns(x) * turn.s);
        x = Stored(Columns(x) * turn.c - Columns(y) * turn.s);
        count_store(COLUMNS);
        if (of_queries) {
            q_out[target_row + d + pairs] = second;
        } else {
            k_out[target_row + d + pairs] = second;
        }
    }
    count_store(COLUMNS);
    if (of_queries) {
        q_out[target_row + d] = x;
    } else {
        k_out[target_row + d] = x;
    }
}

@compute @workgroup_size(64)
fn primitives_rope(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    for (var i = 0u; i < ITEMS; i++) {
        rotate((index * ITEMS + i) * 64u + invocation);
    }
}
