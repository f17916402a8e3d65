// Scores of one head. A workgroup has ROWS rows of raw scores and goes through the keys in tiles of KEYS. Convolutions reach
// ABOVE rows back, so that the last OUT_ROWS rows are its own. They also reach back and forth along the keys: instead of
// computing raw scores on both sides of a tile again, the workgroup keeps the last lines of a tile for the next one, and its
// scores lag half a kernel behind its raw scores.
//
// In workgroup memory a tile is stored by key: a line holds the rows of one key, four rows to a vec4. So lines of earlier
// tiles are whole, strips of rows are vectors, and the weights of four rows are one load when they meet the values.
//
// An invocation (row_thread, col_thread) has rows 4 row_thread to 4 row_thread + 3 and every COL_THREADS-th key. While it
// convolves, it has a strip of eight rows at two neighbouring keys instead.
//
// Consts of the prelude: ROW_THREADS, COL_THREADS, DIM4, PRE_QUERIES, POST_QUERIES, TAPS4, NEW_AT, KEPT_EACH, OUT4,
// SPACE, TAPS. Needs rows of q and k, lib/products.wgsl, and lanes for rows of COL_THREADS.
const ROWS_EACH: u32 = 4u;
const KEYS_EACH: u32 = 4u;
const ROWS: u32 = ROWS_EACH * ROW_THREADS;
const KEYS: u32 = KEYS_EACH * COL_THREADS;
const INVOCATIONS: u32 = ROW_THREADS * COL_THREADS;
const ABOVE: u32 = PRE_QUERIES + POST_QUERIES - 2u;
const OUT_ROWS: u32 = ROWS - ABOVE;
// One vec4 of padding per line and key, so that lines and keys start in different banks.
const LINE: u32 = ROW_THREADS + 1u;
const KEY_STRIDE: u32 = DIM4 + 1u;
const COLUMNS: u32 = 4u * COL_THREADS * OUT4; // per workgroup
const QUERY_TURNS: u32 = (ROWS * DIM4 + INVOCATIONS - 1u) / INVOCATIONS;
const KEY_TURNS: u32 = (KEYS * DIM4 + INVOCATIONS - 1u) / INVOCATIONS;
// Invocations along the keys while convolving, and vec4s of a strip's rows with those above.
const STRIPS: u32 = KEYS / 2u;
const STRIP4: u32 = TAPS4 + 2u;

// Uses, one after the other: a slice of the queries, [ROWS][DIM4], and one of the keys, [KEYS][KEY_STRIDE]; the lines of a
// tile, [KEYS][LINE] from NEW_AT on, after those kept of the tile before; in front of them a vec4 from every invocation; a
// part of the weights, [PART_KEYS][LINE], and their values.
var<workgroup> wg_space: array<vec4<f32>, SPACE>;
// The kernels of the convolutions: [before the softmax, after it][ck][TAPS4].
var<workgroup> wg_taps: array<vec4<f32>, TAPS>;

// This invocation's share of the lines kept of a tile: raw scores, then weights.
var<private> kept: array<vec4<f32>, 2u * KEPT_EACH>;

// The block that a workgroup processes.
struct Block {
    batch: u32,
    head: u32,
    first: i32,  // first row of its own
    split: u32,
    start: i32,  // first key
    end: i32,    // one past the last
    stop: i32,   // one past the last whose raw score it computes; 0 if it has no keys
    column: u32, // first value column
}

fn same_everywhere(x: i32) -> i32 {
    return i32(same_in_workgroup(u32(x)));
}

// Decodes a workgroup index. The last rows see the most keys and come first, so that the shortest workgroups run at the end.
fn block_of(index: u32, before: u32) -> Block {
    var rest = index / params.col_splits;
    let split = rest % params.splits;
    rest = rest / params.splits;
    let first = i32((params.row_blocks - 1u - rest % params.row_blocks) * OUT_ROWS) - i32(before);
    let unit = rest / params.row_blocks;
    let start = i32(split * params.split_keys);
    let end = min(keys_end(min(first + i32(OUT_ROWS), i32(params.queries)) - 1), start + i32(params.split_keys));
    return Block(
        same_in_workgroup(unit / params.heads),
        same_in_workgroup(unit % params.heads),
        same_everywhere(first),
        same_in_workgroup(split),
        same_everywhere(start),
        same_everywhere(end),
        same_everywhere(select(0, end + lag(), start < end)),
        same_in_workgroup(index % params.col_splits * COLUMNS),
    );
}

// Keys between the first of a tile's raw scores and the first of its scores before the softmax, or of its final weights.
fn lag_before() -> i32 {
    return i32(params.pre_keys / 2u);
}

fn lag() -> i32 {
    return i32(params.pre_keys / 2u + params.post_keys / 2u);
}

// Stages the kernel of a convolution, [cq][ck] from `at` on.
fn stage_taps(to: u32, at: u32, queries: u32, keys: u32, factor: f32, invocation: u32) {
    for (var i = invocation; i < keys * TAPS4; i += INVOCATIONS) {
        wg_taps[to + i] = factor * four_taps(at, queries, keys, TAPS4, i);
    }
}

// Prepares a block: the kernel before the softmax, and zeros in front of the first key.
fn start_tiles(block: Block, invocation: u32) {
    for (var i = 0u; i < 2u * KEPT_EACH; i++) {
        kept[i] = vec4<f32>(0.0);
    }
    if (KQ_PRE != 0u) {
        let at = params.kq_pre + block.head * params.pre_queries * params.pre_keys;
        stage_taps(0u, at, params.pre_queries, params.pre_keys, params.scale, invocation);
    }
}

// The row in a slot of a slice of queries. Products take every ROW_THREADS-th slot, which are four rows in sequence.
fn row_in_slot(slot: u32) -> u32 {
    return slot % ROW_THREADS * 4u + slot / ROW_THREADS;
}

fn slice_row(slot: u32, c: u32) -> vec4<f32> {
    return wg_space[slot * DIM4 + c];
}

fn slice_key(key: u32, c: u32) -> vec4<f32> {
    return wg_space[ROWS * DIM4 + key * KEY_STRIDE + c];
}

// Multiplies the rows by the keys from `key` on. Loads have no branches: rows and keys past the ends repeat the outermost,
// and their products are not used.
fn multiply(block: Block, key: i32, row_thread: u32, col_thread: u32, invocation: u32) {
    clear_cells();
    for (var first = 0u; first < params.dim_k; first += 4u * DIM4) {
        let d = first + invocation % DIM4 * 4u;
        workgroupBarrier();
        for (var turn = 0u; turn < QUERY_TURNS; turn++) {
            let i = invocation + INVOCATIONS * turn;
            if (ROWS * DIM4 % INVOCATIONS == 0u || i < ROWS * DIM4) {
                let row = block.first - i32(ABOVE) + i32(row_in_slot(i / DIM4));
                wg_space[i] = load_row(block.batch, block.head, row, d);
            }
        }
        for (var turn = 0u; turn < KEY_TURNS; turn++) {
            let i = invocation + INVOCATIONS * turn;
            if (KEYS * DIM4 % INVOCATIONS == 0u || i < KEYS * DIM4) {
                wg_space[ROWS * DIM4 + i / DIM4 * KEY_STRIDE + invocation % DIM4] =
                    load_key(block.batch, block.head, key + i32(i / DIM4), d);
            }
        }
        workgroupBarrier();
        add_products(row_thread, col_thread);
    }
}

// Where the lines of keys in front of a tile start, if the kernel of a convolution has so many keys.
fn first_line(keys: u32) -> u32 {
    return NEW_AT - (keys - 1u) * LINE;
}

// Puts the lines kept of the tile before in front of this one. `stage` is 0 before the softmax, 1 after it.
fn put_kept(stage: u32, keys: u32, invocation: u32) {
    for (var turn = 0u; turn < KEPT_EACH; turn++) {
        let i = invocation + INVOCATIONS * turn;
        if (i < (keys - 1u) * ROW_THREADS) {
            wg_space[first_line(keys) + i / ROW_THREADS * LINE + i % ROW_THREADS] = kept[stage * KEPT_EACH + turn];
        }
    }
}

// Keeps the last lines of a tile for the next one.
fn keep(stage: u32, keys: u32, invocation: u32) {
    for (var turn = 0u; turn < KEPT_EACH; turn++) {
        let i = invocation + INVOCATIONS * turn;
        if (i < (keys - 1u) * ROW_THREADS) {
            kept[stage * KEPT_EACH + turn] = wg_space[first_line(keys) + (KEYS + i / ROW_THREADS) * LINE + i % ROW_THREADS];
        }
    }
}

// The rows of a line that a strip needs, and the taps of one key.
alias Strip = array<f32, 4u * STRIP4>;
alias Taps = array<f32, 4u * TAPS4>;

fn load_strip(at: u32) -> Strip {
    var strip: Strip;
    for (var n = 0u; n < STRIP4; n++) {
        let four = wg_space[at + n];
        for (var c = 0u; c < 4u; c++) {
            strip[4u * n + c] = four[c];
        }
    }
    return strip;
}

fn load_taps(at: u32) -> Taps {
    var taps: Taps;
    for (var n = 0u; n < TAPS4; n++) {
        let four = wg_taps[at + n];
        for (var c = 0u; c < 4u; c++) {
            taps[4u * n + c] = four[c];
        }
    }
    return taps;
}

// Adds the taps of one key to a strip at one of this invocation's two keys.
fn add_strip(key: u32, taps: Taps, strip: Strip, queries: u32) {
    for (var t = 0u; t < queries; t++) {
        for (var x = 0u; x < 8u; x++) {
            cells[8u * key + x] += taps[t] * strip[x + t];
        }
    }
}

// Convolves the lines of a tile with a kernel of cq = `queries`, which is const, by ck = `keys`, and replaces the lines.
fn convolve(stage: u32, queries: u32, keys: u32, invocation: u32) {
    keep(stage, keys, invocation);
    let own = invocation % STRIPS;
    let at = 2u * same_in_row(invocation / STRIPS);
    clear_cells();
    // A line is the second key's at one tap and the first key's at the next. Two taps at a time, so that these are in the
    // same registers for both.
    var taps_at = stage * params.pre_keys * TAPS4;
    var line = first_line(keys) + 2u * own * LINE + at;
    var even = load_taps(taps_at);
    add_strip(0u, even, load_strip(line), queries);
    for (var b = 1u; b < keys; b += 2u) {
        let odd = load_taps(taps_at + TAPS4);
        let strip = load_strip(line + LINE);
        add_strip(0u, odd, strip, queries);
        add_strip(1u, even, strip, queries);
        taps_at += 2u * TAPS4;
        line += 2u * LINE;
        even = load_taps(taps_at);
        let next = load_strip(line);
        add_strip(0u, even, next, queries);
        add_strip(1u, odd, next, queries);
    }
    add_strip(1u, even, load_strip(line + LINE), queries);
    workgroupBarrier();
    for (var key = 0u; key < 2u; key++) {
        for (var n = 0u; n < 2u; n++) {
            let x = 8u * key + 4u * n;
            wg_space[NEW_AT + (2u * own + key) * LINE + at + n] =
                vec4<f32>(cells[x], cells[x + 1u], cells[x + 2u], cells[x + 3u]);
        }
    }
    workgroupBarrier();
}

// One past the last key that each of this invocation's rows sees, `above` rows before its own.
fn row_ends(block: Block, above: u32, row_thread: u32) -> vec4<i32> {
    let row = block.first - i32(above) + i32(4u * row_thread);
    return vec4<i32>(keys_end(row), keys_end(row + 1), keys_end(row + 2), keys_end(row + 3));
}

// Computes the lines of scores of the tile whose raw scores start at `key`. Ends with a barrier.
fn make_scores(block: Block, key: i32, row_thread: u32, col_thread: u32, invocation: u32) {
    multiply(block, key, row_thread, col_thread, invocation);
    workgroupBarrier();
    let masked = key + i32(KEYS) > keys_end(block.first - i32(ABOVE));
    for (var j = 0u; j < 4u; j++) {
        let own = col_thread + COL_THREADS * j;
        var four = vec4<f32>(cells[j], cells[4u + j], cells[8u + j], cells[12u + j]);
        if (KQ_PRE == 0u) {
            four *= params.scale;
        }
        if (masked) {
            four = select(vec4<f32>(0.0), four, vec4<i32>(key + i32(own)) < row_ends(block, ABOVE, row_thread));
        }
        wg_space[NEW_AT + own * LINE + row_thread] = four;
    }
    if (KQ_PRE != 0u) {
        put_kept(0u, params.pre_keys, invocation);
        workgroupBarrier();
        convolve(0u, PRE_QUERIES, params.pre_keys, invocation);
    } else {
        workgroupBarrier();
    }
}
