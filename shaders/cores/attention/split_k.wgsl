// Split-K, pass 1, for few queries and many keys: each workgroup computes a few rows against 128 keys, one key per
// invocation.
// Grid: key splits, row blocks, KV heads. Reads q, k, v; writes partials.
//
// Rows of a key head are numbered (query head, query). For each row and split: the weighted sum of values (E), then the
// largest score (0 where weights are no exponentials) and the sum of weights relative to it.
// Consts of the prelude: SPLIT_ROWS. Needs rows of q, k and v, and one fragment each of keys_*, seen_*, pairs_* and
// a score.
@group(0) @binding(PARTIALS_BINDING) var<storage, read_write> partials: array<f32>; // [B H N][splits][E + 2]

const SPLIT_KEYS: u32 = 128u;
const CHUNK4: u32 = 4u;
const CHUNK_STRIDE: u32 = CHUNK4 + 1u;
// Layout of the output pass: 16 invocations of four columns each, times 8 lanes over the keys.
const COLUMNS4: u32 = 16u;
const LANES: u32 = SPLIT_KEYS / COLUMNS4;

// Two uses, one after the other: a chunk of the keys, [SPLIT_KEYS][CHUNK_STRIDE]; the sums per lane, [LANES][COLUMNS4].
var<workgroup> wg_keys: array<vec4<f32>, SPLIT_KEYS * CHUNK_STRIDE>;
// A chunk of the queries, [SPLIT_ROWS][CHUNK4].
var<workgroup> wg_queries: array<vec4<f32>, SPLIT_ROWS * CHUNK4>;
// Weights, [SPLIT_ROWS][SPLIT_KEYS].
var<workgroup> wg_weights: array<f32, SPLIT_ROWS * SPLIT_KEYS>;
var<workgroup> wg_tree: array<f32, SPLIT_KEYS>;

fn load_q4(at: u32, d: u32) -> vec4<f32> {
    count_load(four_of(d, params.dim_k));
    return select(vec4<f32>(0.0), load_q(at, d), within(d, params.dim_k));
}

fn load_k4(at: u32, d: u32) -> vec4<f32> {
    count_load(four_of(d, params.dim_k));
    return select(vec4<f32>(0.0), load_k(at, d), within(d, params.dim_k));
}

fn load_v4(at: u32, e: u32) -> vec4<f32> {
    count_load(four_of(e, params.dim_v));
    return load_v(at, e);
}

fn put(at: u32, value: f32) {
    count_store(1u);
    partials[at] = value;
}

// First element of the partial outputs of a row. `kv` counts KV heads over the batch.
fn partial_start(kv: u32, row: u32, split: u32) -> u32 {
    let rows = params.heads / params.kv_heads * params.queries;
    return ((kv * rows + row) * params.splits + split) * (params.dim_v + 2u);
}

// First element in q of a row of a KV head.
fn row_start(b: u32, g: u32, row: u32) -> u32 {
    let per_kv = params.heads / params.kv_heads;
    return head_start(params.q, b, g * per_kv + row / params.queries) + row % params.queries * params.q.token;
}

// The batch entry and KV head of the workgroup.
var<private> own_head: vec2<u32>;

// First elements of a row and of a key, for scores that load them.
fn q_start(row: u32) -> u32 {
    return row_start(own_head.x, own_head.y, row);
}

fn k_start(key: u32) -> u32 {
    return head_start(params.k, own_head.x, own_head.y) + key * params.k.token;
}

// Maximum or sum over all invocations, returned to all of them. The order of the reduction tree is fixed.
fn over_all(invocation: u32, value: f32, largest: bool) -> f32 {
    workgroupBarrier();
    wg_tree[invocation] = value;
    workgroupBarrier();
    for (var half = SPLIT_KEYS / 2u; half > 0u; half /= 2u) {
        if (invocation < half) {
            let other = wg_tree[invocation + half];
            wg_tree[invocation] = select(wg_tree[invocation] + other, max(wg_tree[invocation], other), largest);
        }
        workgroupBarrier();
    }
    return wg_tree[0];
}

// Processes one split of one row block.
fn split_k(index: u32, invocation: u32) {
    let split = index % params.splits;
    let first_row = (index / params.splits) % params.row_blocks * SPLIT_ROWS;
    let kv = index / params.splits / params.row_blocks;
    let b = kv / params.kv_heads;
    let g = kv % params.kv_heads;
    own_head = vec2<u32>(b, g);
    let rows = params.heads / params.kv_heads * params.queries;
    let keys = key_count(b);
    let first_key = split_start(keys) + split * SPLIT_KEYS;
    let end = min(first_key + SPLIT_KEYS, keys);
    let key = first_key + invocation;

    // Dot products of the rows with this invocation's key, and sums of squares for scores that use them.
    var product: array<f32, SPLIT_ROWS>;
    var q_square: array<f32, SPLIT_ROWS>;
    var k_square = 0.0;
    for (var r = 0u; r < SPLIT_ROWS; r++) {
        product[r] = 0.0;
        q_square[r] = 0.0;
    }
    let k_head = head_start(params.k, b, g);
    for (var first = 0u; first < params.dim_k; first += 4u * CHUNK4) {
        workgroupBarrier();
        for (var i = invocation; i < SPLIT_KEYS * CHUNK4; i += SPLIT_KEYS) {
            let j = i / CHUNK4;
            let d = first + (i % CHUNK4) * 4u;
            let at = k_head + (first_key + j) * params.k.token;
            var four = vec4<f32>(0.0);
            if (first_key + j < end) {
                four = load_k4(at, d);
            }
            wg_keys[j * CHUNK_STRIDE + i % CHUNK4] = four;
        }
        if (invocation < SPLIT_ROWS * CHUNK4) {
            let row = first_row + invocation / CHUNK4;
            let d = first + (invocation % CHUNK4) * 4u;
            var four = vec4<f32>(0.0);
            if (row < rows) {
                four = load_q4(row_start(b, g, row), d);
            }
            wg_queries[invocation] = four;
        }
        workgroupBarrier();
        for (var c = 0u; c < CHUNK4; c++) {
            let own = wg_keys[invocation * CHUNK_STRIDE + c];
            k_square += dot(own, own);
            for (var r = 0u; r < SPLIT_ROWS; r++) {
                let row = wg_queries[r * CHUNK4 + c];
                product[r] += dot(row, own);
                q_square[r] += dot(row, row);
            }
        }
    }

    for (var r = 0u; r < SPLIT_ROWS; r++) {
        let row = first_row + r;
        let query = row % params.queries;
        var seen = row < rows && key < end && key >= keys_start(query, keys) && key < keys_end(query, keys);
        var s = score_of(product[r], q_square[r], k_square);
        if (REVISED && is_rough(s)) {
            s = exact_score(row, key);
        }
        if (PAIRS && seen) {
            let pairs = pair_row(b, g * (params.heads / params.kv_heads) + row / params.queries, query);
            let extra = pair_extra(pairs, key);
            seen = pair_seen(pairs, key, extra);
            s = with_extra(s, extra);
        }
        var largest = 0.0;
        if (EXPONENTIAL != 0u) {
            largest = over_all(invocation, select(LOWEST, s, seen), true);
        }
        let weight = select(0.0, weight_of(s, largest), seen);
        wg_weights[r * SPLIT_KEYS + invocation] = weight;
        let sum = over_all(invocation, weight, false);
        if (invocation == 0u && row < rows) {
            let home = partial_start(kv, row, split);
            put(home + params.dim_v, largest);
            put(home + params.dim_v + 1u, sum);
        }
    }
    workgroupBarrier();

    let lane = invocation / COLUMNS4;
    let v_head = head_start(params.v, b, g);
    for (var column = 0u; column < params.dim_v; column += 4u * COLUMNS4) {
        let e = column + (invocation % COLUMNS4) * 4u;
        var out: array<vec4<f32>, SPLIT_ROWS>;
        for (var r = 0u; r < SPLIT_ROWS; r++) {
            out[r] = vec4<f32>(0.0);
        }
        for (var j = lane; first_key + j < end; j += LANES) {
            let at = v_head + (first_key + j) * params.v.token;
            let four = load_v4(at, e);
            for (var r = 0u; r < SPLIT_ROWS; r++) {
                out[r] += wg_weights[r * SPLIT_KEYS + j] * four;
            }
        }
        for (var r = 0u; r < SPLIT_ROWS; r++) {
            workgroupBarrier();
            wg_keys[invocation] = out[r];
            workgroupBarrier();
            let row = first_row + r;
            if (lane == 0u && row < rows) {
                var sum = wg_keys[invocation];
                for (var l = 1u; l < LANES; l++) {
                    sum += wg_keys[invocation + l * COLUMNS4];
                }
                let home = partial_start(kv, row, split);
                for (var c = 0u; c < 4u; c++) {
                    if (e + c < params.dim_v) {
                        put(home + e + c, sum[c]);
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(SPLIT_KEYS)
fn attention_split_k(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    split_k(index, invocation);
}
