// Weighted sums of values, with a running maximum and sum of the softmax. If a convolution follows the softmax, weights come
// from the maxima and sums of pass 1 instead, and go through it first.
// Grid: column splits, splits of the keys, row blocks, heads. Reads q, k, q_tail, weights, stats, v; writes o or partials.
//
// Consts of the prelude: those of tile.wgsl, VALUE_KEYS. Needs rows of v, row_stats.wgsl, and output_whole.wgsl or output_split.wgsl.
override KQ_POST: u32 = 1u; // 1: a convolution follows the softmax

// A tile's weights meet the values in two parts.
const PART_KEYS: u32 = KEYS / 2u;
const WIDTH: u32 = COL_THREADS * OUT4; // columns per workgroup, in groups of four
const VALUES_AT: u32 = PART_KEYS * LINE;
const VALUE_TURNS: u32 = (VALUE_KEYS * WIDTH + INVOCATIONS - 1u) / INVOCATIONS;

// Loads the values of keys key .. key + VALUE_KEYS. Keys outside the block's repeat the outermost; their weights are 0.
fn load_values(block: Block, key: i32, invocation: u32) {
    let v_head = head_start(params.v, block.batch, key_head(block.head));
    for (var turn = 0u; turn < VALUE_TURNS; turn++) {
        let i = invocation + INVOCATIONS * turn;
        if (VALUE_KEYS * WIDTH % INVOCATIONS == 0u || i < VALUE_KEYS * WIDTH) {
            let own = key + i32(i / WIDTH);
            let e = block.column + i % WIDTH * 4u;
            count_load(select(0u, four_of(e, params.dim_v), own >= block.start && own < block.end));
            wg_space[VALUES_AT + i] = load_v(v_head + u32(clamp(own, block.start, block.end - 1)) * params.v.token, e);
        }
    }
}

@compute @workgroup_size(INVOCATIONS)
fn mta_output(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let block = block_of(index, 0u);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    let above = POST_QUERIES - 1u;
    start_tiles(block, invocation);
    // Running maxima of this invocation's rows, and its share of their sums; or maxima and factors of pass 1.
    var top = vec4<f32>(LOWEST);
    var sum = vec4<f32>(0.0);
    if (KQ_POST != 0u) {
        let at = params.kq_post + block.head * params.post_queries * params.post_keys;
        stage_taps(params.pre_keys * TAPS4, at, params.post_queries, params.post_keys, 1.0, invocation);
        for (var i = 0u; i < 4u; i++) {
            let own = row_stats(block.batch, block.head, block.first - i32(above) + i32(4u * row_thread + i));
            top[i] = own.x;
            sum[i] = own.y;
        }
    }
    var out: array<vec4<f32>, 4u * OUT4>;
    for (var i = 0u; i < 4u * OUT4; i++) {
        out[i] = vec4<f32>(0.0);
    }
    let home = row_thread * COL_THREADS;
    for (var key = max(block.start - lag(), 0); key < block.stop; key += i32(KEYS)) {
        make_scores(block, key, row_thread, col_thread, invocation);
        let first = key - lag();
        var weight: array<vec4<f32>, 4>;
        if (KQ_POST != 0u) {
            // The weights that the convolution reads: of all keys, and 0 where a row does not see a key.
            let score_ends = row_ends(block, above, row_thread);
            for (var j = 0u; j < 4u; j++) {
                let own = col_thread + COL_THREADS * j;
                let at = key - lag_before() + i32(own);
                let four = exp(wg_space[NEW_AT + own * LINE + row_thread] - top) * sum;
                let seen = vec4<i32>(at) < select(vec4<i32>(at), score_ends, at >= 0);
                wg_space[NEW_AT + own * LINE + row_thread] = select(vec4<f32>(0.0), four, seen);
            }
            put_kept(1u, params.post_keys, invocation);
            workgroupBarrier();
            convolve(1u, POST_QUERIES, params.post_keys, invocation);
        }
        for (var j = 0u; j < 4u; j++) {
            weight[j] = wg_space[NEW_AT + (col_thread + COL_THREADS * j) * LINE + row_thread];
        }
        if ((first < block.start) | (first + i32(KEYS) > min(keys_end(block.first), block.end))) {
            let hidden = vec4<f32>(select(LOWEST, 0.0, KQ_POST != 0u));
            let ends = min(row_ends(block, 0u, row_thread), vec4<i32>(block.end));
            for (var j = 0u; j < 4u; j++) {
                let at = first + i32(col_thread + COL_THREADS * j);
                let seen = vec4<i32>(at) < select(vec4<i32>(at), ends, at >= block.start);
                weight[j] = select(hidden, weight[j], seen);
            }
        }
        if (KQ_POST == 0u) {
            wg_space[invocation] = max(max(weight[0], weight[1]), max(weight[2], weight[3]));
            workgroupBarrier();
            var largest = top;
            for (var c = 0u; c < COL_THREADS; c++) {
                largest = max(largest, wg_space[home + c]);
            }
            // While a row has seen no key, its weights are 0.
            let base = select(largest, vec4<f32>(0.0), largest == vec4<f32>(LOWEST));
            let shrink = exp(top - base);
            top = largest;
            sum *= shrink;
            for (var i = 0u; i < 4u * OUT4; i++) {
                out[i] *= shrink[i / OUT4];
            }
            for (var j = 0u; j < 4u; j++) {
                weight[j] = exp(weight[j] - base);
                sum += weight[j];
            }
        }
        for (var part = 0u; part < 2u && first + i32(part * PART_KEYS) < block.end; part++) {
            workgroupBarrier();
            for (var j = 0u; j < 2u; j++) {
                wg_space[(col_thread + COL_THREADS * j) * LINE + row_thread] = select(weight[j], weight[j + 2u], part > 0u);
            }
            for (var some = 0u; some < PART_KEYS; some += VALUE_KEYS) {
                if (some > 0u) {
                    workgroupBarrier();
                }
                load_values(block, first + i32(part * PART_KEYS + some), invocation);
                workgroupBarrier();
                for (var j = 0u; j < VALUE_KEYS; j++) {
                    let four = wg_space[(some + j) * LINE + row_thread];
                    for (var c = 0u; c < OUT4; c++) {
                        let value = wg_space[VALUES_AT + j * WIDTH + col_thread + COL_THREADS * c];
                        for (var i = 0u; i < 4u; i++) {
                            out[i * OUT4 + c] += four[i] * value;
                        }
                    }
                }
            }
        }
    }
    // Final weights are not normalised: the first split says so for all.
    var total = vec4<f32>(select(0.0, 1.0, block.split == 0u));
    if (KQ_POST == 0u) {
        workgroupBarrier();
        wg_space[invocation] = sum;
        workgroupBarrier();
        total = vec4<f32>(0.0);
        for (var c = 0u; c < COL_THREADS; c++) {
            total += wg_space[home + c];
        }
    } else {
        top = vec4<f32>(0.0);
    }
    for (var i = 0u; i < 4u; i++) {
        let own = 4u * row_thread + i;
        let row = block.first + i32(own);
        if (own < OUT_ROWS && row < i32(params.queries)) {
            for (var c = 0u; c < OUT4; c++) {
                let e = block.column + 4u * (col_thread + COL_THREADS * c);
                store_output(block, u32(row), e, out[i * OUT4 + c], total[i]);
            }
            if (col_thread == 0u && block.column == 0u) {
                store_sums(block, u32(row), top[i], total[i]);
            }
        }
    }
}
