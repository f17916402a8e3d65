// Few queries against a long cache, pass 1: each workgroup some rows against 128 keys, one key an invocation.
// Grid: key splits, row blocks, key heads. Reads q, k, v; writes partials.
//
// Rows of a key head are numbered (query head, query). For each row and split: the weighted sum of values (E), then the
// largest score and the sum of weights relative to it.
// Consts of the prelude: SPLIT_ROWS.
@group(0) @binding(4) var<storage, read_write> partials: array<f32>; // [B H N][splits][E + 2]

const SPLIT_KEYS: u32 = 128u;
const CHUNK4: u32 = 4u;
const CHUNK_STRIDE: u32 = CHUNK4 + 1u;
// Outputs of a pass: 16 invocations of four columns, 8 of them over the keys.
const COLUMNS4: u32 = 16u;
const LANES: u32 = SPLIT_KEYS / COLUMNS4;

// A chunk of the keys, [SPLIT_KEYS][CHUNK_STRIDE]; then sums of the lanes, [LANES][COLUMNS4].
var<workgroup> wg_keys: array<vec4<f32>, SPLIT_KEYS * CHUNK_STRIDE>;
// A chunk of the queries, [SPLIT_ROWS][CHUNK4].
var<workgroup> wg_queries: array<vec4<f32>, SPLIT_ROWS * CHUNK4>;
// Weights, [SPLIT_ROWS][SPLIT_KEYS].
var<workgroup> wg_weights: array<f32, SPLIT_ROWS * SPLIT_KEYS>;
var<workgroup> wg_tree: array<f32, SPLIT_KEYS>;

fn put(at: u32, value: f32) {
    count_store(1u);
    partials[at] = value;
}

// Largest or sum over all invocations, the same for all; a fixed tree.
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

@compute @workgroup_size(SPLIT_KEYS)
fn softmax_split(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let split = index % params.splits;
    let first_row = (index / params.splits) % params.row_blocks * SPLIT_ROWS;
    let kv = index / params.splits / params.row_blocks;
    let b = kv / params.kv_heads;
    let g = kv % params.kv_heads;
    let per_kv = params.heads / params.kv_heads;
    let rows = per_kv * params.queries;
    let first_key = params.first_key + split * SPLIT_KEYS;
    let end = min(first_key + SPLIT_KEYS, params.keys);
    let key = first_key + invocation;

    var score: array<f32, SPLIT_ROWS>;
    for (var r = 0u; r < SPLIT_ROWS; r++) {
        score[r] = 0.0;
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
            let at = head_start(params.q, b, g * per_kv + row / params.queries) + row % params.queries * params.q.token;
            var four = vec4<f32>(0.0);
            if (row < rows) {
                four = load_q4(at, d);
            }
            wg_queries[invocation] = four;
        }
        workgroupBarrier();
        for (var c = 0u; c < CHUNK4; c++) {
            let own = wg_keys[invocation * CHUNK_STRIDE + c];
            for (var r = 0u; r < SPLIT_ROWS; r++) {
                score[r] += dot(wg_queries[r * CHUNK4 + c], own);
            }
        }
    }

    for (var r = 0u; r < SPLIT_ROWS; r++) {
        let row = first_row + r;
        let query = row % params.queries;
        let seen = row < rows && key < end && key >= keys_start(query) && key < keys_end(query);
        let s = params.scale * score[r];
        let largest = over_all(invocation, select(LOWEST, s, seen), true);
        let weight = select(0.0, exp(s - largest), seen);
        wg_weights[r * SPLIT_KEYS + invocation] = weight;
        let sum = over_all(invocation, weight, false);
        if (invocation == 0u && row < rows) {
            let home = ((b * params.heads * params.queries + g * rows + row) * params.splits + split) * (params.dim_v + 2u);
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
                let home =
                    ((b * params.heads * params.queries + g * rows + row) * params.splits + split) * (params.dim_v + 2u);
                for (var c = 0u; c < 4u; c++) {
                    if (e + c < params.dim_v) {
                        put(home + e + c, sum[c]);
                    }
                }
            }
        }
    }
}
