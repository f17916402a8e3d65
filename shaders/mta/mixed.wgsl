// Scores of a tile of heads that are mixed, as the softmax reads them. Raw scores of one head at a time go into workgroup
// memory, with a halo for the convolution: rows above and keys on both sides. They are then convolved and added to the heads
// that they are mixed into, which are in registers.
//
// Consts of the prelude: HEADS; height and width of the tile of scores and of that of raw scores, SCORE_HEIGHT, SCORE_WIDTH,
// RAW_HEIGHT, RAW_WIDTH; PRE_QUERIES, POST_QUERIES, SPACE, DIMS, DIM4, DIM_STRIDE, COLUMNS. Needs rows of q and k.
override HEAD_PRE: u32 = 1u; // 1: the scores of all heads are mixed before the softmax

const INVOCATIONS: u32 = 256u;
const ROWS: u32 = 8u;
const KEYS: u32 = 32u;

const PRE_TAPS4: u32 = (PRE_QUERIES + 3u) / 4u;
const POST_TAPS4: u32 = (POST_QUERIES + 3u) / 4u;
const MOST_TAPS4: u32 = max(PRE_TAPS4, POST_TAPS4);
const SCORE_EACH: u32 = (SCORE_HEIGHT * SCORE_WIDTH + INVOCATIONS - 1u) / INVOCATIONS;
// An invocation computes raw scores of two rows by two keys at a time.
const RAW_ROWS: u32 = (RAW_HEIGHT + 1u) / 2u;
const RAW_KEYS: u32 = (RAW_WIDTH + 1u) / 2u;
const RAW_EACH: u32 = (RAW_ROWS * RAW_KEYS + INVOCATIONS - 1u) / INVOCATIONS;

// Uses, one after the other: a slice of dimensions of the tile's rows, then of its keys, [rows and keys][DIM_STRIDE]; the
// kernel of a convolution, [ck][PRE_TAPS4 or POST_TAPS4]; values.
var<workgroup> wg_dims: array<vec4<f32>, DIMS>;
var<workgroup> wg_space: array<f32, SPACE>;
// Factors of a head in each of those that it is mixed into.
var<workgroup> wg_factors: array<f32, HEADS>;

// Scores of this invocation's cells, every 256th cell of the tile: [SCORE_EACH][HEADS].
var<private> scores: array<f32, SCORE_EACH * HEADS>;

// The block that a workgroup processes.
struct Block {
    batch: u32,
    group: u32,  // first head of the mixing group
    head: u32,   // first head of the block
    heads: u32,  // number of heads
    first: i32,  // first row
    split: u32,
    start: i32,  // first key
    end: i32,    // one past the last that a row sees
    column: u32, // first value column
}

// Decodes a workgroup index. The last rows see the most keys and come first, so that the shortest workgroups run at the end.
// `before` is the number of rows before the first query.
fn block_of(index: u32, before: u32) -> Block {
    var block: Block;
    block.column = index % params.col_splits * COLUMNS;
    var rest = index / params.col_splits;
    block.split = rest % params.splits;
    rest = rest / params.splits;
    block.first = i32((params.row_blocks - 1u - rest % params.row_blocks) * ROWS) - i32(before);
    rest = rest / params.row_blocks;
    block.start = i32(block.split * params.split_keys);
    let last = min(block.first + i32(ROWS), i32(params.queries)) - 1;
    block.end = min(keys_end(last), block.start + i32(params.split_keys));
    let part = rest % params.head_blocks;
    let parts = (params.group + HEADS - 1u) / HEADS;
    block.batch = rest / params.head_blocks;
    block.group = part / parts * params.group;
    block.head = block.group + part % parts * HEADS;
    block.heads = min(HEADS, block.group + params.group - block.head);
    return block;
}

// Stages the kernel of a convolution that starts at `at` in the weights.
fn stage_taps(at: u32, queries: u32, keys: u32, fours: u32, invocation: u32) {
    for (var i = invocation; i < keys * fours; i += INVOCATIONS) {
        wg_dims[i] = four_taps(at, queries, keys, fours, i);
    }
}

// Stages the factors of a head in `heads` others: every `stride`-th weight from `at` on.
fn stage_factors(at: u32, stride: u32, heads: u32, invocation: u32) {
    if (invocation < HEADS) {
        var factor = 0.0;
        if (invocation < heads) {
            count_load(1u);
            factor = weights[at + invocation * stride];
        }
        wg_factors[invocation] = factor;
    }
}

// Writes the raw scores of a head to wg_space, from this row and key on, 0 where a row does not see a key.
fn load_raw(batch: u32, head: u32, row: i32, key: i32, invocation: u32) {
    // This invocation's rows and keys: one in the first half of them, one in the second.
    var lines: array<vec4<u32>, RAW_EACH>;
    var raw: array<vec4<f32>, RAW_EACH>;
    for (var i = 0u; i < RAW_EACH; i++) {
        let cell = min(invocation + INVOCATIONS * i, RAW_ROWS * RAW_KEYS - 1u);
        let r = cell / RAW_KEYS;
        let c = cell % RAW_KEYS;
        lines[i] = vec4<u32>(r, min(r + RAW_ROWS, RAW_HEIGHT - 1u), c, min(c + RAW_KEYS, RAW_WIDTH - 1u));
        raw[i] = vec4<f32>(0.0);
    }
    for (var first = 0u; first < params.dim_k; first += 4u * DIM4) {
        workgroupBarrier();
        for (var i = invocation; i < (RAW_HEIGHT + RAW_WIDTH) * DIM4; i += INVOCATIONS) {
            let line = i / DIM4;
            let d = first + i % DIM4 * 4u;
            var four: vec4<f32>;
            if (line < RAW_HEIGHT) {
                four = load_row(batch, head, row + i32(line), d);
            } else {
                four = load_key(batch, head, key + i32(line - RAW_HEIGHT), d);
            }
            wg_dims[line * DIM_STRIDE + i % DIM4] = four;
        }
        workgroupBarrier();
        for (var i = 0u; i < RAW_EACH; i++) {
            let at = (lines[i] + vec4<u32>(0u, 0u, RAW_HEIGHT, RAW_HEIGHT)) * DIM_STRIDE;
            for (var c = 0u; c < DIM4; c++) {
                let rows = array<vec4<f32>, 2>(wg_dims[at.x + c], wg_dims[at.y + c]);
                let keys = array<vec4<f32>, 2>(wg_dims[at.z + c], wg_dims[at.w + c]);
                for (var x = 0u; x < 4u; x++) {
                    var own = raw[i][x];
                    own += rows[x / 2u].x * keys[x % 2u].x;
                    own += rows[x / 2u].y * keys[x % 2u].y;
                    own += rows[x / 2u].z * keys[x % 2u].z;
                    own += rows[x / 2u].w * keys[x % 2u].w;
                    raw[i][x] = own;
                }
            }
        }
    }
    for (var i = 0u; i < RAW_EACH; i++) {
        for (var x = 0u; x < 4u; x++) {
            let r = lines[i][x / 2u];
            let c = lines[i][2u + x % 2u];
            let at = key + i32(c);
            let seen = (at >= 0) & (at < keys_end(row + i32(r)));
            // Invocations that repeat a cell write the same number.
            wg_space[r * RAW_WIDTH + c] = select(0.0, raw[i][x] * params.scale, seen);
        }
    }
}

// Convolution with the staged kernel at the cell whose first tap reads wg_space[at]. All but `at` and `keys` are const.
fn convolved(at: u32, width: u32, queries: u32, fours: u32, keys: u32) -> f32 {
    var sum = 0.0;
    for (var b = 0u; b < keys; b++) {
        var taps: array<vec4<f32>, MOST_TAPS4>;
        for (var n = 0u; n < fours; n++) {
            taps[n] = wg_dims[b * fours + n];
        }
        for (var t = 0u; t < queries; t++) {
            sum += taps[t / 4u][t % 4u] * wg_space[at + t * width + b];
        }
    }
    return sum;
}

// Computes the scores of some heads at this invocation's cells of the tile whose scores start at this row and key.
fn make_scores(batch: u32, head: u32, heads: u32, row: i32, key: i32, invocation: u32) {
    for (var i = 0u; i < SCORE_EACH * HEADS; i++) {
        scores[i] = 0.0;
    }
    let raw_row = row - i32(RAW_HEIGHT - SCORE_HEIGHT);
    let raw_key = key - i32((RAW_WIDTH - SCORE_WIDTH) / 2u);
    let first = select(head, 0u, HEAD_PRE == 1u);
    let end = select(head + heads, params.heads, HEAD_PRE == 1u);
    for (var other = first; other < end; other++) {
        load_raw(batch, other, raw_row, raw_key, invocation);
        if (KQ_PRE == 1u) {
            workgroupBarrier();
            let taps = params.kq_pre + other * PRE_QUERIES * params.pre_keys;
            stage_taps(taps, PRE_QUERIES, params.pre_keys, PRE_TAPS4, invocation);
        }
        if (HEAD_PRE == 1u) {
            stage_factors(params.head_pre + head * params.heads + other, params.heads, heads, invocation);
        }
        workgroupBarrier();
        for (var i = 0u; i < SCORE_EACH; i++) {
            let cell = min(invocation + INVOCATIONS * i, SCORE_HEIGHT * SCORE_WIDTH - 1u);
            let at = cell / SCORE_WIDTH * RAW_WIDTH + cell % SCORE_WIDTH;
            var score = wg_space[at];
            if (KQ_PRE == 1u) {
                score = convolved(at, RAW_WIDTH, PRE_QUERIES, PRE_TAPS4, params.pre_keys);
            }
            if (HEAD_PRE == 1u) {
                for (var to = 0u; to < HEADS; to++) {
                    scores[i * HEADS + to] += wg_factors[to] * score;
                }
            } else {
                scores[i * HEADS + (other - head) % HEADS] = score;
            }
        }
    }
}
