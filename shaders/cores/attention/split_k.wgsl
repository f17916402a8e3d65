// Split-K, pass 1, for few queries and many keys: each workgroup processes a few rows of a key head and one split of the keys,
// in tiles of one key per invocation, with a running maximum and sum.
// Grid: row blocks, key splits, column splits, KV heads. Reads q, k, v; writes partials.
//
// Rows of a key head are numbered (query head, query). The splits share the keys that the rows of a block see: of a cache that
// grows they get longer, and no split is idle while another has more than a tile.
// For each row and split: the weighted sums of values, padded to groups of four, then a group with the largest score (0 where
// weights are no exponentials) and the sum of weights relative to it.
//
// Consts of the prelude: SPLIT_ROWS, COLUMNS4, DIM4, BATCH, VALUE_BATCH. Needs rows of q, k and v, one fragment each of keys_*,
// seen_*, pairs_* and a score, lanes and a reduction.
@group(0) @binding(PARTIALS_BINDING) var<storage, read_write> partials: array<vec4<f32>>; // [B H N][splits][E / 4 + 1]

const INVOCATIONS: u32 = 128u;
const REDUCED: u32 = SPLIT_ROWS;
const ROWS4: u32 = (SPLIT_ROWS + 3u) / 4u;
// The sums of a tile: COLUMNS4 invocations of four columns each, times LANES over the keys.
const LANES: u32 = INVOCATIONS / COLUMNS4;
// Rows whose lanes are added up at once.
const TOGETHER: u32 = min(SPLIT_ROWS, 4u);

// DIM4 groups of four elements of each query, [SPLIT_ROWS][DIM4].
var<workgroup> wg_queries: array<vec4<f32>, SPLIT_ROWS * DIM4>;
// Two uses, one after the other: the weights of a tile, [INVOCATIONS][ROWS4], four rows in a group; the sums of every lane,
// [TOGETHER][LANES][COLUMNS4].
var<workgroup> wg_weights: array<vec4<f32>, TOGETHER * INVOCATIONS>;

fn put(at: u32, four: vec4<f32>) {
    count_store(4u);
    partials[at] = four;
}

// First group of the partial outputs of a row. `kv` counts KV heads over the batch.
fn partial_start(kv: u32, row: u32, split: u32) -> u32 {
    let rows = params.heads / params.kv_heads * params.queries;
    return ((kv * rows + row) * params.splits + split) * ((params.dim_v + 3u) / 4u + 1u);
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

// Loads the queries of a block, from dimension `first` on. Pads with zeros, and with the last row.
fn load_queries(b: u32, g: u32, first_row: u32, last_row: u32, first: u32, invocation: u32) {
    for (var i = invocation; i < SPLIT_ROWS * DIM4; i += INVOCATIONS) {
        let row = first_row + i / DIM4;
        let d = first + i % DIM4 * 4u;
        count_load(select(0u, four_of(d, params.dim_k), row <= last_row));
        let four = load_q(row_start(b, g, min(row, last_row)), d);
        wg_queries[i] = select(vec4<f32>(0.0), four, within(d, params.dim_k));
    }
}

// Processes one split of one row block.
fn split_k(index: u32, invocation: u32) {
    let first_row = index % params.row_blocks * SPLIT_ROWS;
    var rest = index / params.row_blocks;
    let split = rest % params.splits;
    rest = rest / params.splits;
    let first_column = rest % params.col_splits * COLUMNS4;
    let kv = rest / params.col_splits;
    let b = kv / params.kv_heads;
    let g = kv % params.kv_heads;
    own_head = vec2<u32>(b, g);
    let rows = params.heads / params.kv_heads * params.queries;
    let last_row = min(first_row + SPLIT_ROWS, rows) - 1u;
    let keys = key_count(b);
    // The keys that the block sees: those of its queries from the first to the last, or of all where it has several heads.
    let one_head = first_row / params.queries == last_row / params.queries;
    let from_key = keys_start(select(0u, first_row % params.queries, one_head), keys);
    let to_key = keys_end(select(params.queries - 1u, last_row % params.queries, one_head), keys);
    let tiles = (max(to_key, from_key) - from_key + INVOCATIONS - 1u) / INVOCATIONS;
    let split_len = (tiles + params.splits - 1u) / params.splits * INVOCATIONS;
    let start = from_key + split * split_len;
    let end = min(start + split_len, to_key);

    // Per row: the range of keys it sees, the running maximum, and this invocation's share of the sum.
    var sees_from: array<u32, SPLIT_ROWS>;
    var sees_to: array<u32, SPLIT_ROWS>;
    var q_square: array<f32, SPLIT_ROWS>;
    var top: array<f32, SPLIT_ROWS>;
    var sum: array<f32, SPLIT_ROWS>;
    var out: array<vec4<f32>, SPLIT_ROWS>;
    for (var r = 0u; r < SPLIT_ROWS; r++) {
        let row = min(first_row + r, last_row);
        sees_from[r] = keys_start(row % params.queries, keys);
        sees_to[r] = min(keys_end(row % params.queries, keys), end);
        top[r] = select(0.0, LOWEST, EXPONENTIAL != 0u);
        sum[r] = 0.0;
        out[r] = vec4<f32>(0.0);
    }
    let k_head = head_start(params.k, b, g);
    let v_head = head_start(params.v, b, g);
    let lane = same_in_row(invocation / COLUMNS4);
    let e = (first_column + invocation % COLUMNS4) * 4u;
    // Queries that fit are loaded once, others for every tile.
    let whole = params.dim_k <= 4u * DIM4;
    if (whole && start < end) {
        load_queries(b, g, first_row, last_row, 0u, invocation);
        workgroupBarrier();
    }

    for (var tile = start; tile < end; tile += INVOCATIONS) {
        // Products of the rows with this invocation's key, and sums of squares for scores that use them.
        let key = tile + invocation;
        let k_at = k_head + min(key, end - 1u) * params.k.token;
        var product: array<f32, SPLIT_ROWS>;
        var k_square = 0.0;
        for (var r = 0u; r < SPLIT_ROWS; r++) {
            product[r] = 0.0;
            q_square[r] = 0.0;
        }
        for (var first = 0u; first < params.dim_k; first += 4u * DIM4) {
            if (!whole) {
                workgroupBarrier();
                load_queries(b, g, first_row, last_row, first, invocation);
                workgroupBarrier();
            }
            for (var c = 0u; c < DIM4 && first + 4u * c < params.dim_k; c += BATCH) {
                var own: array<vec4<f32>, BATCH>;
                for (var i = 0u; i < BATCH; i++) {
                    let d = first + 4u * (c + i);
                    count_load(select(0u, four_of(d, params.dim_k), key < end));
                    own[i] = load_k(k_at, d);
                }
                for (var i = 0u; i < BATCH; i++) {
                    let four = own[i];
                    let kept = select(vec4<f32>(0.0), four, within(first + 4u * (c + i), params.dim_k));
                    k_square += dot(kept, kept);
                    for (var r = 0u; r < SPLIT_ROWS; r++) {
                        let row = wg_queries[r * DIM4 + c + i];
                        product[r] += row.x * four.x;
                        product[r] += row.y * four.y;
                        product[r] += row.z * four.z;
                        product[r] += row.w * four.w;
                        q_square[r] += dot(row, row);
                    }
                }
            }
        }

        var score: array<f32, SPLIT_ROWS>;
        var seen: array<bool, SPLIT_ROWS>;
        var largest: array<f32, SPLIT_ROWS>;
        for (var r = 0u; r < SPLIT_ROWS; r++) {
            score[r] = score_of(product[r], q_square[r], k_square);
            if (REVISED && is_rough(score[r])) {
                score[r] = exact_score(min(first_row + r, last_row), min(key, end - 1u));
            }
            seen[r] = key >= sees_from[r] && key < sees_to[r];
            if (PAIRS && seen[r] && first_row + r <= last_row) {
                let row = first_row + r;
                let head = g * (params.heads / params.kv_heads) + row / params.queries;
                let pairs = pair_row(b, head, row % params.queries);
                let extra = pair_extra(pairs, key);
                seen[r] = pair_seen(pairs, key, extra);
                score[r] = with_extra(score[r], extra);
            }
            largest[r] = select(LOWEST, score[r], seen[r]);
        }
        if (EXPONENTIAL != 0u) {
            all_max(invocation, &largest);
        } else {
            workgroupBarrier();
        }
        var weights: array<vec4<f32>, ROWS4>;
        for (var r = 0u; r < SPLIT_ROWS; r++) {
            if (EXPONENTIAL != 0u) {
                let highest = max(top[r], largest[r]);
                let shrink = exp2(top[r] - highest);
                top[r] = highest;
                sum[r] *= shrink;
                out[r] *= shrink;
            }
            let weight = select(0.0, weight_of(score[r], top[r]), seen[r]);
            sum[r] += weight;
            weights[r / 4u][r % 4u] = weight;
        }
        for (var r = 0u; r < ROWS4; r++) {
            wg_weights[invocation * ROWS4 + r] = weights[r];
        }
        workgroupBarrier();

        // Every lane takes each LANES-th key. Behind the end weights are zero, and the last value is repeated.
        for (var i = 0u; i < COLUMNS4 && tile + i * LANES < end; i += VALUE_BATCH) {
            var value: array<vec4<f32>, VALUE_BATCH>;
            for (var j = 0u; j < VALUE_BATCH; j++) {
                let at = tile + (i + j) * LANES + lane;
                count_load(select(0u, four_of(e, params.dim_v), at < end));
                value[j] = load_v(v_head + min(at, end - 1u) * params.v.token, e);
            }
            for (var j = 0u; j < VALUE_BATCH; j++) {
                for (var r = 0u; r < ROWS4; r++) {
                    let four = wg_weights[((i + j) * LANES + lane) * ROWS4 + r];
                    for (var c = 0u; c < min(SPLIT_ROWS, 4u); c++) {
                        out[4u * r + c] += four[c] * value[j];
                    }
                }
            }
        }
    }

    all_sum(invocation, &sum);
    for (var r = 0u; r < SPLIT_ROWS; r += TOGETHER) {
        for (var i = 0u; i < TOGETHER; i++) {
            wg_weights[i * INVOCATIONS + invocation] = out[r + i];
        }
        workgroupBarrier();
        for (var i = invocation; i < TOGETHER * COLUMNS4; i += INVOCATIONS) {
            let row = first_row + r + i / COLUMNS4;
            let column = first_column + i % COLUMNS4;
            let at = i / COLUMNS4 * INVOCATIONS + i % COLUMNS4;
            var all = wg_weights[at];
            for (var l = 1u; l < LANES; l++) {
                all += wg_weights[at + l * COLUMNS4];
            }
            if (row <= last_row && 4u * column < params.dim_v) {
                put(partial_start(kv, row, split) + column, all);
            }
        }
        workgroupBarrier();
    }
    if (invocation == 0u && first_column == 0u) {
        for (var r = 0u; r < SPLIT_ROWS; r++) {
            if (first_row + r <= last_row) {
                let behind = partial_start(kv, first_row + r, split) + (params.dim_v + 3u) / 4u;
                put(behind, vec4<f32>(top[r], sum[r], 0.0, 0.0));
            }
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
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
