// Maxima and sums of pass 1, as the pass for the output reads them.
@group(0) @binding(STATS_BINDING) var<storage, read> stats: array<f32>; // B H rows splits 2; a dummy if there are none

// Maximum of a row's scores, and the factor of exponentials relative to it, over all splits; a factor of 0 if there is no row.
fn row_stats(batch: u32, head: u32, row: i32) -> vec2<f32> {
    var top = LOWEST;
    var sum = 0.0;
    if (row >= -i32(params.rows_before) && row < i32(params.queries)) {
        let at = stat_at(batch, head, row);
        for (var split = 0u; split < params.splits; split++) {
            count_load(2u);
            let own = stats[at + 2u * split];
            let largest = max(top, own);
            sum = sum * exp(top - largest) + stats[at + 2u * split + 1u] * exp(own - largest);
            top = largest;
        }
    }
    return vec2<f32>(top, select(1.0 / sum, 0.0, sum == 0.0));
}
