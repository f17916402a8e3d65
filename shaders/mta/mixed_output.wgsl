// Weighted sums of values, with a running maximum and sum of the softmax. If stages follow the softmax, weights come from
// the maxima and sums of pass 1 instead, and go through these stages first.
// Grid: column splits, splits of the keys, row blocks, head blocks, units. Reads q, k, q_tail, weights, stats, v; writes o or
// partials.
//
// Consts of the prelude: those of mixed.wgsl, PARALLEL, VALUE_KEYS. Needs rows of v, row_stats.wgsl, and output_whole.wgsl or
// output_split.wgsl.
override POST: u32 = 1u;      // 1: stages follow the softmax
override KQ_POST: u32 = 1u;   // 1: a convolution is one of them
override HEAD_POST: u32 = 1u; // 1: head mixing is one of them

// Values meet the weights of PARALLEL heads at a time, which share the invocations. Each has some rows of one head by four
// columns.
const WIDTH: u32 = COLUMNS / 4u;
const OUT_ROWS: u32 = max(ROWS * WIDTH * PARALLEL / INVOCATIONS, 1u);
const ROW_THREADS: u32 = ROWS / OUT_ROWS;
const HEAD_THREADS: u32 = ROW_THREADS * WIDTH;
const ROUNDS: u32 = HEADS / PARALLEL;
// A row of weights, with padding so that rows start in different banks.
const LINE: u32 = KEYS + 1u;
// Parts of a row whose maxima or sums are found first.
const PARTS: u32 = 8u;
// Uses of wg_space here: weights of a tile, [PARALLEL][ROWS][LINE]; then [PARALLEL][ROWS][PARTS], and [PARALLEL][ROWS].
const PARTS_AT: u32 = PARALLEL * ROWS * LINE;
const FACTORS_AT: u32 = PARTS_AT + PARALLEL * ROWS * PARTS;
// The other use: weights of one head, [SCORE_HEIGHT][SCORE_WIDTH]; then maxima and factors of its rows.
const STATS_AT: u32 = SCORE_HEIGHT * SCORE_WIDTH;

// For each head, at this invocation's cell of the tile: the weight, or the score if the softmax is still to come.
var<private> cell_weights: array<f32, HEADS>;
// Running maximum of the row of this cell in each head, and the sum over this invocation's keys.
var<private> top: array<f32, HEADS>;
var<private> sum: array<f32, HEADS>;

// Weights of the block's heads at this invocation's cell of the tile at `key`, after all stages.
fn make_weights(block: Block, key: i32, invocation: u32) {
    for (var h = 0u; h < HEADS; h++) {
        cell_weights[h] = 0.0;
    }
    let row = block.first - i32(SCORE_HEIGHT - ROWS);
    let first_key = key - i32((SCORE_WIDTH - KEYS) / 2u);
    let start = select(block.head, block.group, HEAD_POST == 1u);
    let count = select(block.heads, params.group, HEAD_POST == 1u);
    for (var some = 0u; some < count; some += HEADS) {
        let heads = min(HEADS, count - some);
        make_scores(block.batch, start + some, heads, row, first_key, invocation);
        workgroupBarrier();
        for (var h = 0u; h < heads; h++) {
            let head = start + some + h;
            if (invocation < SCORE_HEIGHT) {
                let own = row_stats(block.batch, head, row + i32(invocation));
                wg_space[STATS_AT + 2u * invocation] = own.x;
                wg_space[STATS_AT + 2u * invocation + 1u] = own.y;
            }
            workgroupBarrier();
            for (var i = 0u; i < SCORE_EACH; i++) {
                let cell = invocation + INVOCATIONS * i;
                if (cell < SCORE_HEIGHT * SCORE_WIDTH) {
                    let own = cell / SCORE_WIDTH;
                    let at_key = first_key + i32(cell % SCORE_WIDTH);
                    let stats_at = STATS_AT + 2u * own;
                    let weight = exp(scores[i * HEADS + h % HEADS] - wg_space[stats_at]) * wg_space[stats_at + 1u];
                    let seen = (at_key >= 0) & (at_key < keys_end(row + i32(own)));
                    wg_space[cell] = select(0.0, weight, seen);
                }
            }
            if (KQ_POST == 1u) {
                let taps = params.kq_post + head * POST_QUERIES * params.post_keys;
                stage_taps(taps, POST_QUERIES, params.post_keys, POST_TAPS4, invocation);
            }
            if (HEAD_POST == 1u) {
                // head_post is [group, in, out], one group after another.
                let factors = params.head_post + head * params.group + block.head - block.group;
                stage_factors(factors, 1u, block.heads, invocation);
            }
            workgroupBarrier();
            let at = invocation / KEYS * SCORE_WIDTH + invocation % KEYS;
            var weight = wg_space[at];
            if (KQ_POST == 1u) {
                weight = convolved(at, SCORE_WIDTH, POST_QUERIES, POST_TAPS4, params.post_keys);
            }
            if (HEAD_POST == 1u) {
                for (var to = 0u; to < HEADS; to++) {
                    cell_weights[to] += wg_factors[to] * weight;
                }
            } else {
                cell_weights[h % HEADS] = weight;
            }
        }
    }
}

// Stores the weights of this invocation's cell in `PARALLEL` heads from `some` on.
fn put(some: u32, invocation: u32) {
    for (var p = 0u; p < PARALLEL; p++) {
        wg_space[(p * ROWS + invocation / KEYS) * LINE + invocation % KEYS] = cell_weights[some + p];
    }
}

// Maxima or sums of the stored rows, in parts: PARALLEL * ROWS * PARTS numbers at PARTS_AT. Contains a barrier and ends with one.
fn put_parts(largest: bool, invocation: u32) {
    workgroupBarrier();
    if (invocation < PARALLEL * ROWS * PARTS) {
        let first = invocation / PARTS * LINE + invocation % PARTS;
        var part = wg_space[first];
        for (var i = PARTS; i < KEYS; i += PARTS) {
            let own = wg_space[first + i];
            part = select(part + own, max(part, own), largest);
        }
        wg_space[PARTS_AT + invocation] = part;
    }
    workgroupBarrier();
}

// The softmax of the heads from `some` on: turns scores of this invocation's cell into weights relative to the row's maximum,
// and says by how much sums so far shrink.
fn weigh(some: u32, seen: bool, invocation: u32) {
    for (var p = 0u; p < PARALLEL; p++) {
        cell_weights[some + p] = select(LOWEST, cell_weights[some + p], seen);
    }
    put(some, invocation);
    put_parts(true, invocation);
    let row = invocation / KEYS;
    for (var p = 0u; p < PARALLEL; p++) {
        let before = top[some + p];
        var largest = before;
        for (var i = 0u; i < PARTS; i++) {
            largest = max(largest, wg_space[PARTS_AT + (p * ROWS + row) * PARTS + i]);
        }
        let shrink = exp(before - largest);
        let weight = select(0.0, exp(cell_weights[some + p] - largest), seen);
        cell_weights[some + p] = weight;
        top[some + p] = largest;
        sum[some + p] = sum[some + p] * shrink + weight;
        if (invocation % KEYS == 0u) {
            wg_space[FACTORS_AT + p * ROWS + row] = shrink;
        }
    }
}

// Loads the values of VALUE_KEYS keys from `key` on for the heads from `some` on. Keys past the end repeat the last; their
// weights are 0.
fn load_values(block: Block, some: u32, key: i32, invocation: u32) {
    for (var i = invocation; i < PARALLEL * VALUE_KEYS * WIDTH; i += INVOCATIONS) {
        let own = key + i32(i / WIDTH % VALUE_KEYS);
        let head = some + i / (WIDTH * VALUE_KEYS);
        let e = block.column + i % WIDTH * 4u;
        count_load(select(0u, four_of(e, params.dim_v), own < block.end && head < block.heads));
        let v_head = head_start(params.v, block.batch, key_head(block.head + min(head, block.heads - 1u)));
        wg_dims[i] = load_v(v_head + u32(min(own, block.end - 1)) * params.v.token, e);
    }
}

@compute @workgroup_size(INVOCATIONS)
fn mta_mixed_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let block = block_of(index, 0u);
    for (var h = 0u; h < HEADS; h++) {
        top[h] = LOWEST;
        sum[h] = 0.0;
    }
    // Invocations that no head has repeat those of the last.
    let part = min(invocation / HEAD_THREADS, PARALLEL - 1u);
    let row_thread = invocation % HEAD_THREADS / WIDTH;
    let col_thread = invocation % WIDTH;
    var out: array<vec4<f32>, ROUNDS * OUT_ROWS>;
    for (var i = 0u; i < ROUNDS * OUT_ROWS; i++) {
        out[i] = vec4<f32>(0.0);
    }
    let own_end = min(keys_end(block.first + i32(invocation / KEYS)), block.end);
    for (var key = block.start; key < block.end; key += i32(KEYS)) {
        if (POST == 1u) {
            make_weights(block, key, invocation);
        } else {
            make_scores(block.batch, block.head, block.heads, block.first, key, invocation);
            for (var h = 0u; h < HEADS; h++) {
                cell_weights[h] = scores[h];
            }
        }
        let seen = key + i32(invocation % KEYS) < own_end;
        for (var round = 0u; round < ROUNDS; round++) {
            workgroupBarrier();
            if (POST == 1u) {
                for (var p = 0u; p < PARALLEL; p++) {
                    let at = round * PARALLEL + p;
                    cell_weights[at] = select(0.0, cell_weights[at], seen);
                }
            } else {
                weigh(round * PARALLEL, seen, invocation);
            }
            put(round * PARALLEL, invocation);
            for (var some = 0u; some < KEYS; some += VALUE_KEYS) {
                workgroupBarrier();
                load_values(block, round * PARALLEL, key + i32(some), invocation);
                workgroupBarrier();
                if (POST == 0u && some == 0u) {
                    for (var r = 0u; r < OUT_ROWS; r++) {
                        out[round * OUT_ROWS + r] *= wg_space[FACTORS_AT + part * ROWS + row_thread + ROW_THREADS * r];
                    }
                }
                for (var j = 0u; j < VALUE_KEYS; j++) {
                    let value = wg_dims[(part * VALUE_KEYS + j) * WIDTH + col_thread];
                    for (var r = 0u; r < OUT_ROWS; r++) {
                        let weight = wg_space[(part * ROWS + row_thread + ROW_THREADS * r) * LINE + some + j];
                        out[round * OUT_ROWS + r] += weight * value;
                    }
                }
            }
        }
    }
    for (var round = 0u; round < ROUNDS; round++) {
        workgroupBarrier();
        if (POST == 0u) {
            for (var p = 0u; p < PARALLEL; p++) {
                cell_weights[round * PARALLEL + p] = sum[round * PARALLEL + p];
                if (invocation % KEYS == 0u) {
                    wg_space[FACTORS_AT + p * ROWS + invocation / KEYS] = top[round * PARALLEL + p];
                }
            }
            put(round * PARALLEL, invocation);
            put_parts(false, invocation);
        }
        var own = block;
        own.head = block.head + round * PARALLEL + part;
        if (invocation < PARALLEL * HEAD_THREADS && round * PARALLEL + part < block.heads) {
            for (var r = 0u; r < OUT_ROWS; r++) {
                let line = part * ROWS + row_thread + ROW_THREADS * r;
                let row = block.first + i32(line % ROWS);
                // Final weights are not normalised: the first split says so for all.
                var largest = 0.0;
                var total = select(0.0, 1.0, block.split == 0u);
                if (POST == 0u) {
                    largest = wg_space[FACTORS_AT + line];
                    total = 0.0;
                    for (var i = 0u; i < PARTS; i++) {
                        total += wg_space[PARTS_AT + line * PARTS + i];
                    }
                }
                if (row < i32(params.queries)) {
                    store_output(own, u32(row), block.column + 4u * col_thread, out[round * OUT_ROWS + r], total);
                    if (col_thread == 0u && block.column == 0u) {
                        store_sums(own, u32(row), largest, total);
                    }
                }
            }
        }
    }
}
