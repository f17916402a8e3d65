// Scores of a tile as the softmax reads them. Raw scores of one head at a time go into workgroup memory, with a halo for the
// convolution: rows above and keys on both sides. They are then convolved and added to the heads that they are mixed into,
// which are in registers. Weights are read by all invocations at once and not counted.
//
// Prelude constants: HEADS, RAW_EACH, SCORE_EACH, SPACE, DIMS, DIM4, COLUMNS.
@group(0) @binding(Q_BINDING) var<storage, read> q: array<Elem>; // B H N D
@group(0) @binding(K_BINDING) var<storage, read> k: array<Elem>; // B G M D
@group(0) @binding(Q_TAIL_BINDING) var<storage, read> q_tail: array<f32>; // B H T D; a dummy if there is none
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // a dummy if there are none

override CAUSAL: u32 = 1u;   // 1: query i sees only keys up to its own
override KQ_PRE: u32 = 1u;   // 1: this stage exists; below likewise
override HEAD_PRE: u32 = 1u;

const INVOCATIONS: u32 = 256u;
const ROWS: u32 = 8u;
const KEYS: u32 = 32u;

// At most any score. A row that has seen no key has this as its maximum.
const LOWEST: f32 = -3.4028234e38;

var<workgroup> wg_space: array<f32, SPACE>;
// A chunk of dimensions of the tile's rows, then of its keys: [rows and keys][DIM4].
var<workgroup> wg_dims: array<vec4<f32>, DIMS>;

// Scores of this invocation's cells, every 256th cell of the tile: [SCORE_EACH][HEADS].
var<private> scores: array<f32, SCORE_EACH * HEADS>;

// A range of rows and keys; either may reach outside the sequence.
struct Tile {
    row: i32,
    height: u32,
    key: i32,
    width: u32,
}

// The block that a workgroup processes.
struct Block {
    batch: u32,
    group: u32,  // first head of the mixing group
    head: u32,   // first head of the block
    heads: u32,  // number of heads
    rows: u32,   // index of the row block
    column: u32, // first value column
}

// Decodes a workgroup index. The last rows see the most keys and come first, so that the shortest workgroups run at the end.
fn block_of(index: u32) -> Block {
    var block: Block;
    var rest = index;
    block.column = rest % params.col_splits * COLUMNS;
    rest = rest / params.col_splits;
    block.rows = params.row_blocks - 1u - rest % params.row_blocks;
    rest = rest / params.row_blocks;
    let part = rest % params.head_blocks;
    let unit = rest / params.head_blocks;
    let parts = (params.group + HEADS - 1u) / HEADS;
    block.batch = unit / params.batch_units;
    block.group = unit % params.batch_units * params.unit_heads + part / parts * params.group;
    block.head = block.group + part % parts * HEADS;
    block.heads = min(HEADS, block.group + params.group - block.head);
    return block;
}

// One past the last key that a row sees. Negative rows are those of q_tail.
fn keys_end(row: i32) -> i32 {
    if (row < -i32(params.tail) || row >= i32(params.queries)) {
        return 0;
    }
    if (CAUSAL == 0u) {
        return i32(params.keys);
    }
    return clamp(row + 1 + params.shift, 0, i32(params.keys));
}

fn load_query(batch: u32, head: u32, row: i32, d: u32) -> f32 {
    if (d >= params.dim_k || row < -i32(params.tail) || row >= i32(params.queries)) {
        return 0.0;
    }
    count_load(1u);
    if (row < 0) {
        let at = (batch * params.heads + head) * params.tail + u32(row + i32(params.tail));
        return q_tail[at * params.dim_k + d];
    }
    return f32(q[head_start(params.q, batch, head) + u32(row) * params.q.token + d]);
}

fn load_key(batch: u32, head: u32, key: i32, d: u32) -> f32 {
    if (d >= params.dim_k || key < 0 || key >= i32(params.keys)) {
        return 0.0;
    }
    count_load(1u);
    let kv_head = head / (params.heads / params.kv_heads);
    return f32(k[head_start(params.k, batch, kv_head) + u32(key) * params.k.token + d]);
}

// Loads a chunk of dimensions, from `first` on, of all rows and keys of a tile.
fn load_dims(batch: u32, head: u32, tile: Tile, first: u32, invocation: u32) {
    for (var i = invocation; i < (tile.height + tile.width) * DIM4; i += INVOCATIONS) {
        let line = i / DIM4;
        let d = first + i % DIM4 * 4u;
        var four: vec4<f32>;
        if (line < tile.height) {
            let row = tile.row + i32(line);
            four = vec4<f32>(
                load_query(batch, head, row, d),
                load_query(batch, head, row, d + 1u),
                load_query(batch, head, row, d + 2u),
                load_query(batch, head, row, d + 3u),
            );
        } else {
            let key = tile.key + i32(line - tile.height);
            four = vec4<f32>(
                load_key(batch, head, key, d),
                load_key(batch, head, key, d + 1u),
                load_key(batch, head, key, d + 2u),
                load_key(batch, head, key, d + 3u),
            );
        }
        wg_dims[i] = four;
    }
}

// Writes the raw scores of a head to wg_space, 0 where a row does not see a key. Ends with a barrier.
fn load_raw(batch: u32, head: u32, tile: Tile, invocation: u32) {
    let cells = tile.height * tile.width;
    var raw: array<f32, RAW_EACH>;
    for (var i = 0u; i < RAW_EACH; i++) {
        raw[i] = 0.0;
    }
    for (var first = 0u; first < params.dim_k; first += 4u * DIM4) {
        workgroupBarrier();
        load_dims(batch, head, tile, first, invocation);
        workgroupBarrier();
        for (var i = 0u; i < RAW_EACH; i++) {
            let cell = min(invocation + INVOCATIONS * i, cells - 1u);
            let row = cell / tile.width * DIM4;
            let key = (tile.height + cell % tile.width) * DIM4;
            for (var c = 0u; c < DIM4; c++) {
                raw[i] += dot(wg_dims[row + c], wg_dims[key + c]);
            }
        }
    }
    for (var i = 0u; i < RAW_EACH; i++) {
        let cell = invocation + INVOCATIONS * i;
        if (cell < cells) {
            let key = tile.key + i32(cell % tile.width);
            let seen = key >= 0 && key < keys_end(tile.row + i32(cell / tile.width));
            wg_space[cell] = select(0.0, raw[i] * params.scale, seen);
        }
    }
    workgroupBarrier();
}

// Convolution at the cell whose first tap reads wg_space[at].
fn convolved(at: u32, width: u32, taps: u32, queries: u32, keys: u32) -> f32 {
    var sum = 0.0;
    for (var t = 0u; t < queries; t++) {
        for (var b = 0u; b < keys; b++) {
            sum += weights[taps + t * keys + b] * wg_space[at + t * width + b];
        }
    }
    return sum;
}

// Computes the scores of some heads at this invocation's cells of a tile.
fn make_scores(batch: u32, head: u32, heads: u32, tile: Tile, invocation: u32) {
    for (var i = 0u; i < SCORE_EACH * HEADS; i++) {
        scores[i] = 0.0;
    }
    let above = params.pre_queries - 1u;
    let side = params.pre_keys / 2u;
    let raw = Tile(tile.row - i32(above), tile.height + above, tile.key - i32(side), tile.width + 2u * side);
    let first = select(head, 0u, HEAD_PRE == 1u);
    let end = select(head + heads, params.heads, HEAD_PRE == 1u);
    for (var other = first; other < end; other++) {
        load_raw(batch, other, raw, invocation);
        for (var i = 0u; i < SCORE_EACH; i++) {
            let cell = invocation + INVOCATIONS * i;
            if (cell < tile.height * tile.width) {
                let at = cell / tile.width * raw.width + cell % tile.width;
                var score = wg_space[at];
                if (KQ_PRE == 1u) {
                    let taps = params.kq_pre + other * params.pre_queries * params.pre_keys;
                    score = convolved(at, raw.width, taps, params.pre_queries, params.pre_keys);
                }
                if (HEAD_PRE == 1u) {
                    for (var to = 0u; to < heads; to++) {
                        let factor = weights[params.head_pre + (head + to) * params.heads + other];
                        scores[i * HEADS + to % HEADS] += factor * score;
                    }
                } else {
                    scores[i * HEADS + (other - head) % HEADS] = score;
                }
            }
        }
    }
}

// Offset of a row's maximum in stats; its sum follows.
fn stat_at(batch: u32, head: u32, row: i32) -> u32 {
    let rows = params.queries + params.rows_before;
    return ((batch * params.heads + head) * rows + u32(row + i32(params.rows_before))) * 2u;
}
