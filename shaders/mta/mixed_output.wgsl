// Weighted sums of values, with a running maximum and sum of the softmax. If stages follow the softmax, weights come from
// the maxima and sums of pass 1 instead, and go through these stages first.
// Grid: column splits, row blocks, head blocks, units. Reads q, k, q_tail, weights, stats, v; writes o.
@group(0) @binding(STATS_BINDING) var<storage, read> stats: array<f32>; // B H rows 2; a dummy if there are none
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>; // B H N E

override POST: u32 = 1u;      // 1: stages follow the softmax
override KQ_POST: u32 = 1u;   // 1: a convolution is one of them
override HEAD_POST: u32 = 1u; // 1: head mixing is one of them

const VALUES: u32 = 256u;           // start of the values in wg_space, after the weights
const OUT_EACH: u32 = COLUMNS / KEYS; // columns per invocation

// For each head, at this invocation's cell of the tile: the weight, or the score if the softmax is still to come.
var<private> cell_weights: array<f32, HEADS>;

// Weights of the block's heads at this invocation's cell of the tile at `key`, after all stages.
fn make_weights(block: Block, first: i32, key: i32, invocation: u32) {
    for (var h = 0u; h < HEADS; h++) {
        cell_weights[h] = 0.0;
    }
    let above = i32(SCORE_HEIGHT - ROWS);
    let side = i32((SCORE_WIDTH - KEYS) / 2u);
    let start = select(block.head, block.group, HEAD_POST == 1u);
    let count = select(block.heads, params.group, HEAD_POST == 1u);
    for (var some = 0u; some < count; some += HEADS) {
        let heads = min(HEADS, count - some);
        make_scores(block.batch, start + some, heads, first - above, key - side, invocation);
        for (var h = 0u; h < heads; h++) {
            let head = start + some + h;
            workgroupBarrier();
            for (var i = 0u; i < SCORE_EACH; i++) {
                let cell = invocation + INVOCATIONS * i;
                if (cell < SCORE_HEIGHT * SCORE_WIDTH) {
                    let row = first - above + i32(cell / SCORE_WIDTH);
                    let at_key = key - side + i32(cell % SCORE_WIDTH);
                    var weight = 0.0;
                    if (at_key >= 0 && at_key < keys_end(row)) {
                        let at = stat_at(block.batch, head, row);
                        count_load(2u);
                        weight = exp(scores[i * HEADS + h % HEADS] - stats[at]) * stats[at + 1u];
                    }
                    wg_space[cell] = weight;
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

// Loads the values of VALUE_KEYS keys from `key` on. Keys past the end repeat the last; their weights are 0.
fn load_values(block: Block, head: u32, key: i32, end: i32, invocation: u32) {
    let v_head = head_start(params.v, block.batch, key_head(head));
    for (var i = invocation; i < VALUE_KEYS * COLUMNS / 4u; i += INVOCATIONS) {
        let own = key + i32(i / (COLUMNS / 4u));
        let e = block.column + i % (COLUMNS / 4u) * 4u;
        count_load(select(0u, four_of(e, params.dim_v), own < end));
        let four = load_v(v_head + u32(min(own, end - 1)) * params.v.token, e);
        for (var c = 0u; c < 4u; c++) {
            wg_space[VALUES + 4u * i + c] = four[c];
        }
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
    let block = block_of(index);
    let first = i32(block.rows * ROWS);
    let row = invocation / KEYS;
    let lane = invocation % KEYS;
    let query = first + i32(row);
    var top: array<f32, HEADS>; // running maximum of the row
    var sum: array<f32, HEADS>; // sum over this invocation's keys
    var out: array<f32, HEADS * OUT_EACH>;
    for (var h = 0u; h < HEADS; h++) {
        top[h] = LOWEST;
        sum[h] = 0.0;
    }
    for (var i = 0u; i < HEADS * OUT_EACH; i++) {
        out[i] = 0.0;
    }
    let end = keys_end(min(first + i32(ROWS), i32(params.queries)) - 1);
    let own_end = keys_end(query);
    for (var key = 0; key < end; key += i32(KEYS)) {
        if (POST == 1u) {
            make_weights(block, first, key, invocation);
        } else {
            make_scores(block.batch, block.head, block.heads, first, key, invocation);
            for (var h = 0u; h < HEADS; h++) {
                cell_weights[h] = scores[h];
            }
        }
        let seen = key + i32(lane) < own_end;
        for (var h = 0u; h < block.heads; h++) {
            var own: array<f32, OUT_EACH>;
            for (var x = 0u; x < OUT_EACH; x++) {
                own[x] = out[h % HEADS * OUT_EACH + x];
            }
            var weight = select(0.0, cell_weights[h % HEADS], seen);
            if (POST == 0u) {
                workgroupBarrier();
                wg_space[invocation] = select(LOWEST, weight, seen);
                workgroupBarrier();
                let before = top[h % HEADS];
                var largest = before;
                for (var i = 0u; i < KEYS; i++) {
                    largest = max(largest, wg_space[row * KEYS + i]);
                }
                let shrink = exp(before - largest);
                top[h % HEADS] = largest;
                weight = select(0.0, exp(weight - largest), seen);
                sum[h % HEADS] = sum[h % HEADS] * shrink + weight;
                for (var x = 0u; x < OUT_EACH; x++) {
                    own[x] *= shrink;
                }
            }
            workgroupBarrier();
            wg_space[invocation] = weight;
            for (var some = 0u; some < KEYS; some += VALUE_KEYS) {
                workgroupBarrier();
                load_values(block, block.head + h, key + i32(some), end, invocation);
                workgroupBarrier();
                for (var j = 0u; j < VALUE_KEYS; j++) {
                    let factor = wg_space[row * KEYS + some + j];
                    for (var x = 0u; x < OUT_EACH; x++) {
                        own[x] += factor * wg_space[VALUES + j * COLUMNS + lane + KEYS * x];
                    }
                }
            }
            for (var x = 0u; x < OUT_EACH; x++) {
                out[h % HEADS * OUT_EACH + x] = own[x];
            }
        }
    }
    for (var h = 0u; h < block.heads; h++) {
        var total = 1.0;
        if (POST == 0u) {
            workgroupBarrier();
            wg_space[invocation] = sum[h % HEADS];
            workgroupBarrier();
            total = 0.0;
            for (var i = 0u; i < KEYS; i++) {
                total += wg_space[row * KEYS + i];
            }
        }
        // If the total weight is 0 (a row that sees no key), the sums are 0 and stay 0.
        let over = select(1.0 / total, 0.0, total == 0.0);
        if (query < i32(params.queries)) {
            let at = head_start(params.o, block.batch, block.head + h) + u32(query) * params.o.token;
            for (var x = 0u; x < OUT_EACH; x++) {
                let e = block.column + lane + KEYS * x;
                if (e < params.dim_v) {
                    count_store(1u);
                    o[at + e] = Elem(out[h % HEADS * OUT_EACH + x] * over);
                }
            }
        }
    }
}
