// Loads of a tile (tile.wgsl) that has queries: those of READ_HEADS heads for each token.
const QUERY_GROUPS: u32 = READ_HEADS * TILE * ROW4;
const QUERY_TURNS: u32 = (QUERY_GROUPS + INVOCATIONS - 1u) / INVOCATIONS;

// Whether the next tile waits in registers.
const AHEAD: bool = KEY_TURNS + VALUE_TURNS + QUERY_TURNS <= 6u;
var<private> next_keys: array<vec4<f32>, select(1u, KEY_TURNS, AHEAD)>;
var<private> next_values: array<vec4<f32>, select(1u, VALUE_TURNS, AHEAD)>;
var<private> next_queries: array<vec4<f32>, select(1u, QUERY_TURNS, AHEAD)>;

// Group i of the queries. Rows that are none repeat another, and are never stored.
fn fetch_query(p: Place, first: u32, end: u32, i: u32) -> vec4<f32> {
    let at = one_of(i, QUERY_GROUPS);
    let row = at / ROW4;
    let r = p.head_split * READ_HEADS + row / TILE;
    let n = first + row % TILE;
    let counted = n < end && r < p.group && is_one_of(i, QUERY_GROUPS);
    count_load(select(0u, group_loads(at % ROW4), counted));
    return load_query(p, r, min(n, end - 1u), at % ROW4);
}

fn store_query(first: u32, i: u32, x: vec4<f32>) {
    put_query(first + i / ROW4 % TILE, i, x, in_group(i % ROW4));
}

// Loads the queries of tokens first .. first + TILE of this workgroup's query heads.
fn load_queries(p: Place, first: u32, end: u32, invocation: u32) {
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_one_of(i, QUERY_GROUPS)) {
            store_query(first, i, fetch_query(p, first, end, i));
        }
    }
}

// Issues the loads of a tile, with its keys and values if `keys`.
fn fetch_tile(p: Place, first: u32, end: u32, keys: bool, invocation: u32) {
    if (!AHEAD) {
        return;
    }
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        next_queries[turn] = fetch_query(p, first, end, invocation + turn * INVOCATIONS);
    }
    if (!keys) {
        return;
    }
    for (var turn = 0u; turn < KEY_TURNS; turn++) {
        next_keys[turn] = fetch_key(p, first, end, invocation + turn * INVOCATIONS);
    }
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        next_values[turn] = fetch_value(p, first, end, invocation + turn * INVOCATIONS);
    }
}

// Stores a tile to workgroup memory: the fetched one, if it waits in registers.
fn store_tile(p: Place, first: u32, end: u32, keys: bool, invocation: u32) {
    if (!AHEAD) {
        load_queries(p, first, end, invocation);
        if (keys) {
            load_keys(p, first, end, invocation);
        }
        return;
    }
    for (var turn = 0u; turn < QUERY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_one_of(i, QUERY_GROUPS)) {
            store_query(first, i, next_queries[turn]);
        }
    }
    if (!keys) {
        return;
    }
    for (var turn = 0u; turn < KEY_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_one_of(i, KEY_GROUPS)) {
            store_key(first, end, i, next_keys[turn]);
        }
    }
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if (is_one_of(i, VALUE_GROUPS)) {
            wg_v[i] = next_values[turn];
        }
    }
}
