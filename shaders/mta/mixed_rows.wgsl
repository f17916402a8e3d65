// Pass 1, if stages follow the softmax: the maximum of each row's scores, and the sum of exponentials relative to it.
// Grid: splits of the keys, row blocks, head blocks, units. Reads q, k, q_tail, weights; writes stats.
@group(0) @binding(STATS_BINDING) var<storage, read_write> stats: array<f32>; // B H rows splits 2

@compute @workgroup_size(INVOCATIONS)
fn mta_mixed_rows(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let index = group_index(params.grid, group, groups);
    if (index >= params.grid.end) {
        return;
    }
    let block = block_of(index, params.rows_before);
    let row = block.first + i32(invocation / KEYS);
    let lane = i32(invocation % KEYS);
    // Maximum and sum over this invocation's keys.
    var top: array<f32, HEADS>;
    var sum: array<f32, HEADS>;
    for (var h = 0u; h < HEADS; h++) {
        top[h] = LOWEST;
        sum[h] = 0.0;
    }
    let own_end = min(keys_end(row), block.end);
    for (var key = block.start; key < block.end; key += i32(KEYS)) {
        make_scores(block.batch, block.head, block.heads, block.first, key, invocation);
        if (key + lane < own_end) {
            for (var h = 0u; h < block.heads; h++) {
                let before = top[h % HEADS];
                let score = scores[h % HEADS];
                let largest = max(before, score);
                sum[h % HEADS] = sum[h % HEADS] * exp(before - largest) + exp(score - largest);
                top[h % HEADS] = largest;
            }
        }
    }
    for (var h = 0u; h < block.heads; h++) {
        workgroupBarrier();
        wg_space[invocation] = top[h % HEADS];
        workgroupBarrier();
        var largest = LOWEST;
        for (var i = 0u; i < KEYS; i++) {
            largest = max(largest, wg_space[invocation / KEYS * KEYS + i]);
        }
        workgroupBarrier();
        wg_space[invocation] = sum[h % HEADS] * exp(top[h % HEADS] - largest);
        workgroupBarrier();
        if (lane == 0 && row < i32(params.queries)) {
            var total = 0.0;
            for (var i = 0u; i < KEYS; i++) {
                total += wg_space[invocation + i];
            }
            let at = stat_at(block.batch, block.head + h, row) + 2u * block.split;
            count_store(2u);
            stats[at] = largest;
            stats[at + 1u] = total;
        }
    }
}
