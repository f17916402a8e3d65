// Pass 1, if a convolution follows the softmax: the maximum of each row's scores, and the sum of exponentials relative to
// it. Grid: splits of the keys, row blocks, heads. Reads q, k, q_tail, weights; writes stats.
@group(0) @binding(STATS_BINDING) var<storage, read_write> stats: array<f32>; // B H rows splits 2

@compute @workgroup_size(INVOCATIONS)
fn mta_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let block = block_of(index, params.rows_before);
    let row_thread = same_in_row(invocation / COL_THREADS);
    let col_thread = invocation % COL_THREADS;
    let ends = min(row_ends(block, 0u, row_thread), vec4<i32>(block.end));
    start_tiles(block, invocation);
    // Maxima and sums of this invocation's rows over its own keys.
    var top = vec4<f32>(LOWEST);
    var sum = vec4<f32>(0.0);
    for (var key = max(block.start - lag(), 0); key < block.stop; key += i32(KEYS)) {
        make_scores(block, key, row_thread, col_thread, invocation);
        var four: array<vec4<f32>, 4>;
        var largest = top;
        for (var j = 0u; j < 4u; j++) {
            let own = col_thread + COL_THREADS * j;
            let at = key - lag() + i32(own);
            let seen = vec4<i32>(at) < select(vec4<i32>(at), ends, at >= block.start);
            four[j] = select(vec4<f32>(LOWEST), wg_space[NEW_AT + own * LINE + row_thread], seen);
            largest = max(largest, four[j]);
        }
        let base = select(largest, vec4<f32>(0.0), largest == vec4<f32>(LOWEST));
        sum *= exp(top - base);
        for (var j = 0u; j < 4u; j++) {
            sum += exp(four[j] - base);
        }
        top = largest;
    }
    workgroupBarrier();
    wg_space[invocation] = top;
    workgroupBarrier();
    let home = row_thread * COL_THREADS;
    var largest = top;
    for (var c = 0u; c < COL_THREADS; c++) {
        largest = max(largest, wg_space[home + c]);
    }
    workgroupBarrier();
    wg_space[invocation] = sum * exp(top - select(largest, vec4<f32>(0.0), largest == vec4<f32>(LOWEST)));
    workgroupBarrier();
    if (col_thread < 4u) {
        var total = 0.0;
        for (var c = 0u; c < COL_THREADS; c++) {
            total += wg_space[home + c][col_thread];
        }
        let own = 4u * row_thread + col_thread;
        let row = block.first + i32(own);
        if (own < OUT_ROWS && row < i32(params.queries)) {
            let at = stat_at(block.batch, block.head, row) + 2u * block.split;
            count_store(2u);
            stats[at] = largest[col_thread];
            stats[at + 1u] = total;
        }
    }
}
