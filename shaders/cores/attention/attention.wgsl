// Tiled attention: one workgroup processes a block of query rows and loops over tiles of keys. It keeps a running sum of
// weights and, when weights are exponentials of scores, a running maximum. Scores never leave the workgroup.
//
// A workgroup has ROWS rows: a range of queries for each query head that shares its KV head. Invocation (row_thread,
// col_thread) owns rows row_thread + 16 i. For each of them it holds the scores of every COL_THREADS-th key, and later
// every COL_THREADS-th group of four output columns. Keys are processed in tiles of KEYS, head dimensions in chunks of
// 4 DIM4 (so workgroup memory does not grow with the head dimension), and the values of a tile in passes of VALUE_KEYS.
//
// Grid: column splits, row blocks, head splits, KV heads. Reads q, k, v; writes o.
//
// Consts of the prelude: COL_THREADS, KEYS_EACH, OUT4, DIM4, VALUE_KEYS. Needs loads.wgsl, keys_all.wgsl or
// keys_lengths.wgsl, a score (scaled.wgsl, or the operator's own), and squares.wgsl, or no_squares.wgsl where the score takes
// none.
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // B H N E

const ROW_THREADS: u32 = 16u;
const ROWS_EACH: u32 = 4u;
const ROWS: u32 = ROW_THREADS * ROWS_EACH;
const KEYS: u32 = COL_THREADS * KEYS_EACH;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const WIDTH: u32 = COL_THREADS * OUT4; // columns per workgroup, in groups of four
// One column of padding per row, so that rows start in different banks.
const DIM_STRIDE: u32 = DIM4 + 1u;
const KEY_STRIDE: u32 = KEYS + 1u;

// Two uses, one after the other: a chunk of the queries, [ROWS][DIM_STRIDE]; the weights of a tile,
// [ROW_THREADS][KEY_STRIDE]. One vec4 holds the weights of the four rows of a row thread: if several invocations wrote
// parts of the same vec4, the writes would race.
var<workgroup> wg_rows: array<vec4<f32>, ROWS * 9u>;
// Three uses, one after the other: a chunk of the keys, [KEYS][DIM_STRIDE]; the maxima or sums of four rows from every
// invocation, [ROW_THREADS][COL_THREADS]; the values of one pass, [VALUE_KEYS][WIDTH].
var<workgroup> wg_keys: array<vec4<f32>, 288>;

// The block that a workgroup processes.
struct Block {
    batch: u32,
    keys: u32,    // that it has
    kv_head: u32,
    head: u32,    // first query head
    heads: u32,   // number of query heads
    query: u32,   // first query
    queries: u32, // queries per head
    column: u32,  // first value column, in groups of four
}

// Decodes a workgroup index. The last queries see the most keys and come first, so that the shortest workgroups run at
// the end and fill the idle units.
fn block_of(index: u32) -> Block {
    var block: Block;
    var rest = index;
    block.column = (rest % params.col_splits) * WIDTH;
    rest = rest / params.col_splits;
    block.query = (params.row_blocks - 1u - rest % params.row_blocks) * params.row_queries;
    rest = rest / params.row_blocks;
    let group = params.heads / params.kv_heads;
    let first = (rest % params.head_splits) * params.block_heads;
    let kv = rest / params.head_splits;
    block.batch = kv / params.kv_heads;
    block.keys = key_count(block.batch);
    block.kv_head = kv % params.kv_heads;
    block.head = block.kv_head * group + first;
    block.heads = min(params.block_heads, group - first);
    block.queries = min(params.row_queries, params.queries - block.query);
    return block;
}

// True if this row of the workgroup lies inside the block.
fn row_exists(block: Block, row: u32) -> bool {
    return row / params.row_queries < block.heads && row % params.row_queries < block.queries;
}

// First element of a row of the workgroup, in q or o.
fn row_start(s: Strides, block: Block, row: u32) -> u32 {
    return head_start(s, block.batch, block.head + row / params.row_queries)
        + (block.query + row % params.row_queries) * s.token;
}

// Loads one chunk of dimensions, starting at `first`, of the queries and of keys key .. key + KEYS. Pads with zeros.
fn load_chunk(block: Block, key: u32, end: u32, first: u32, invocation: u32) {
    for (var i = invocation; i < ROWS * DIM4; i += INVOCATIONS) {
        let row = i / DIM4;
        let d = first + (i % DIM4) * 4u;
        var four = vec4<f32>(0.0);
        if (row_exists(block, row)) {
            four = load_q4(row_start(params.q, block, row), d);
        }
        wg_rows[row * DIM_STRIDE + i % DIM4] = four;
    }
    let k_head = head_start(params.k, block.batch, block.kv_head);
    for (var i = invocation; i < KEYS * DIM4; i += INVOCATIONS) {
        let j = i / DIM4;
        let d = first + (i % DIM4) * 4u;
        var four = vec4<f32>(0.0);
        if (key + j < end) {
            let at = k_head + (key + j) * params.k.token;
            four = load_k4(at, d);
        }
        wg_keys[j * DIM_STRIDE + i % DIM4] = four;
    }
}

// Loads the values of keys key .. key + VALUE_KEYS.
fn load_values(block: Block, key: u32, end: u32, invocation: u32) {
    let v_head = head_start(params.v, block.batch, block.kv_head);
    for (var i = invocation; i < VALUE_KEYS * WIDTH; i += INVOCATIONS) {
        let j = i / WIDTH;
        let e = (block.column + i % WIDTH) * 4u;
        var four = vec4<f32>(0.0);
        if (key + j < end) {
            let at = v_head + (key + j) * params.v.token;
            four = load_v4(at, e);
        }
        wg_keys[i] = four;
    }
}

fn store_output(at: u32, value: f32, e: u32) {
    if (e < params.dim_v) {
        count_store(1u);
        o[at + e] = Elem(value);
    }
}

// Processes one block.
fn attention(block: Block, invocation: u32) {
    let row_thread = invocation / COL_THREADS;
    let col_thread = invocation % COL_THREADS;
    // Per row: the range of keys it sees, the running maximum, and this invocation's share of the sum of weights.
    var sees_from: array<u32, ROWS_EACH>;
    var sees_to: array<u32, ROWS_EACH>;
    var top: array<f32, ROWS_EACH>;
    var sum: array<f32, ROWS_EACH>;
    var out: array<vec4<f32>, ROWS_EACH * OUT4>;
    for (var i = 0u; i < ROWS_EACH; i++) {
        let query = block.query + (row_thread + ROW_THREADS * i) % params.row_queries;
        sees_from[i] = keys_start(query, block.keys);
        sees_to[i] = keys_end(query, block.keys);
        top[i] = LOWEST;
        sum[i] = 0.0;
    }
    for (var i = 0u; i < ROWS_EACH * OUT4; i++) {
        out[i] = vec4<f32>(0.0);
    }

    // Tiles that no row sees are skipped.
    let start = keys_start(block.query, block.keys);
    let end = keys_end(block.query + block.queries - 1u, block.keys);
    let k_head = head_start(params.k, block.batch, block.kv_head);
    for (var key = start; key < end; key += KEYS) {
        var score: array<f32, ROWS_EACH * KEYS_EACH>;
        for (var i = 0u; i < ROWS_EACH * KEYS_EACH; i++) {
            score[i] = 0.0;
        }
        for (var first = 0u; first < params.dim_k; first += 4u * DIM4) {
            workgroupBarrier();
            load_chunk(block, key, end, first, invocation);
            workgroupBarrier();
            add_squares(key == start, first == 0u, invocation);
            for (var c = 0u; c < DIM4; c++) {
                var keys: array<vec4<f32>, KEYS_EACH>;
                for (var j = 0u; j < KEYS_EACH; j++) {
                    keys[j] = wg_keys[(col_thread + COL_THREADS * j) * DIM_STRIDE + c];
                }
                for (var i = 0u; i < ROWS_EACH; i++) {
                    let row = wg_rows[(row_thread + ROW_THREADS * i) * DIM_STRIDE + c];
                    for (var j = 0u; j < KEYS_EACH; j++) {
                        score[i * KEYS_EACH + j] += dot(row, keys[j]);
                    }
                }
            }
        }
        workgroupBarrier();
        var own_top: vec4<f32>;
        for (var i = 0u; i < ROWS_EACH; i++) {
            let row = row_thread + ROW_THREADS * i;
            let q_at = row_start(params.q, block, row);
            let q_square = row_square(row);
            var largest = LOWEST;
            for (var j = 0u; j < KEYS_EACH; j++) {
                let own = col_thread + COL_THREADS * j;
                let at = key + own;
                let product = score[i * KEYS_EACH + j];
                let s = score_of(product, q_square, key_square(own), q_at, k_head + at * params.k.token);
                score[i * KEYS_EACH + j] = s;
                if (at >= sees_from[i] && at < sees_to[i]) {
                    largest = max(largest, s);
                }
            }
            own_top[i] = largest;
        }
        var all_top = vec4<f32>(top[0], top[1], top[2], top[3]);
        if (EXPONENTIAL != 0u) {
            wg_keys[invocation] = own_top;
            workgroupBarrier();
            for (var c = 0u; c < COL_THREADS; c++) {
                all_top = max(all_top, wg_keys[row_thread * COL_THREADS + c]);
            }
        }
        var weights: array<vec4<f32>, KEYS_EACH>;
        for (var i = 0u; i < ROWS_EACH; i++) {
            let largest = all_top[i];
            if (EXPONENTIAL != 0u) {
                let shrink = exp(top[i] - largest);
                top[i] = largest;
                sum[i] *= shrink;
                for (var c = 0u; c < OUT4; c++) {
                    out[i * OUT4 + c] *= shrink;
                }
            }
            for (var j = 0u; j < KEYS_EACH; j++) {
                let own = col_thread + COL_THREADS * j;
                var weight = 0.0;
                if (key + own >= sees_from[i] && key + own < sees_to[i]) {
                    weight = weight_of(score[i * KEYS_EACH + j], largest);
                }
                sum[i] += weight;
                weights[j][i] = weight;
            }
        }
        for (var j = 0u; j < KEYS_EACH; j++) {
            wg_rows[row_thread * KEY_STRIDE + col_thread + COL_THREADS * j] = weights[j];
        }
        for (var some = 0u; some < KEYS && key + some < end; some += VALUE_KEYS) {
            workgroupBarrier();
            load_values(block, key + some, end, invocation);
            workgroupBarrier();
            for (var j = 0u; j < VALUE_KEYS; j += 4u) {
                let row = row_thread * KEY_STRIDE + some + j;
                let w0 = wg_rows[row];
                let w1 = wg_rows[row + 1u];
                let w2 = wg_rows[row + 2u];
                let w3 = wg_rows[row + 3u];
                for (var c = 0u; c < OUT4; c++) {
                    let at = j * WIDTH + col_thread + COL_THREADS * c;
                    let v0 = wg_keys[at];
                    let v1 = wg_keys[at + WIDTH];
                    let v2 = wg_keys[at + 2u * WIDTH];
                    let v3 = wg_keys[at + 3u * WIDTH];
                    for (var i = 0u; i < ROWS_EACH; i++) {
                        out[i * OUT4 + c] += w0[i] * v0 + w1[i] * v1 + w2[i] * v2 + w3[i] * v3;
                    }
                }
            }
        }
    }

    workgroupBarrier();
    wg_keys[invocation] = vec4<f32>(sum[0], sum[1], sum[2], sum[3]);
    workgroupBarrier();
    var totals = vec4<f32>(0.0);
    for (var c = 0u; c < COL_THREADS; c++) {
        totals += wg_keys[row_thread * COL_THREADS + c];
    }
    for (var i = 0u; i < ROWS_EACH; i++) {
        let row = row_thread + ROW_THREADS * i;
        let divisor = divisor_of(totals[i]);
        if (row_exists(block, row)) {
            let at = row_start(params.o, block, row);
            for (var c = 0u; c < OUT4; c++) {
                let e = (block.column + col_thread + COL_THREADS * c) * 4u;
                let four = out[i * OUT4 + c] / divisor;
                store_output(at, four.x, e);
                store_output(at, four.y, e + 1u);
                store_output(at, four.z, e + 2u);
                store_output(at, four.w, e + 3u);
            }
        }
    }
}

@compute @workgroup_size(ROW_THREADS * COL_THREADS)
fn attention_tiled(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    attention(block_of(index), invocation);
}
