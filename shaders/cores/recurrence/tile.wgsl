// Loads of a tile of tokens into workgroup memory: four elements of a row an invocation and turn.
//
// Loads of the next tile are issued before the tile at hand is processed, and wait in registers: that hides their latency.
// Where a tile has many groups for each invocation, it is loaded when it is needed instead.
//
// Prelude constants: those of rank_one_update.wgsl. What is loaded of a key or a query (given_keys.wgsl, stored_keys.wgsl, and
// given_rows.wgsl, stored_rows.wgsl) says: load_key(p, n, i) and load_query(p, r, n, i), its group i; group_loads(i), the loads
// of that group; in_group(i), which of its four elements exist. The operator's features say: ROW4, groups of four that are
// loaded of a key or a query; put_key(n, i, x, there), which stores group i of the tile, of token n, where `there` tells which
// of its elements exist; and put_query(n, i, x, there), if there are queries.
const KEY_GROUPS: u32 = TILE * ROW4;
const VALUE_GROUPS: u32 = TILE * COL_THREADS;
const KEY_TURNS: u32 = (KEY_GROUPS + INVOCATIONS - 1u) / INVOCATIONS;
const VALUE_TURNS: u32 = (VALUE_GROUPS + INVOCATIONS - 1u) / INVOCATIONS;

// Values, [TILE][COL_THREADS].
var<workgroup> wg_v: array<vec4<f32>, VALUE_GROUPS>;

// Values of token t of the tile. No barrier follows where an epilogue reads them: with one query head, the invocation that does
// is the one that loads the next ones.
fn token_values(p: Place, n: u32, t: u32, i: u32) -> vec4<f32> {
    return wg_v[t * COL_THREADS + i];
}

// Whether group i is one of so many: in the last turn of an invocation it may be past them.
fn is_one_of(i: u32, groups: u32) -> bool {
    return groups % INVOCATIONS == 0u || i < groups;
}

// Group i, or the last one: loads without branches repeat it.
fn one_of(i: u32, groups: u32) -> u32 {
    return select(min(i, groups - 1u), i, groups % INVOCATIONS == 0u);
}

// Group i of the keys. Tokens from `end` on repeat the last one.
fn fetch_key(p: Place, first: u32, end: u32, i: u32) -> vec4<f32> {
    let at = one_of(i, KEY_GROUPS);
    let n = first + at / ROW4;
    count_load(select(0u, group_loads(at % ROW4), n < end && is_one_of(i, KEY_GROUPS)));
    return load_key(p, min(n, end - 1u), at % ROW4);
}

fn store_key(first: u32, end: u32, i: u32, x: vec4<f32>) {
    let n = first + i / ROW4;
    put_key(n, i, x, in_group(i % ROW4) & vec4<bool>(n < end));
}

// Group i of the values. Tokens from `end` on repeat the last one: their features are zero. Columns past the value
// dimension are never stored.
fn fetch_value(p: Place, first: u32, end: u32, i: u32) -> vec4<f32> {
    let at = one_of(i, VALUE_GROUPS);
    let n = first + at / COL_THREADS;
    let e = (p.split * COL_THREADS + at % COL_THREADS) * 4u;
    count_load(select(0u, four_of(e, params.dim_v), n < end && is_one_of(i, VALUE_GROUPS)));
    return load_v(head_start(params.v, p.b, p.g) + min(n, end - 1u) * params.v.token, e);
}

// Loads keys and values of tokens first .. first + TILE of one KV head.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    for (var turn = 0u; turn < KEY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_one_of(i, KEY_GROUPS)) {
            store_key(first, end, i, fetch_key(p, first, end, i));
        }
    }
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_one_of(i, VALUE_GROUPS)) {
            wg_v[i] = fetch_value(p, first, end, i);
        }
    }
}
