// performer: the scaled sums of a row divided by their weight. Both are short of e^(level + largest feature of the query): what
// is added to the weight is too, and sums that are not divided get it back.
fn quotient(row: u32, sum: vec4<f32>, weight: f32) -> vec4<f32> {
    let log = wg_shift[row % TILE] + wg_shift[TILE + row];
    if (NORMALIZE == 0u) {
        // In two steps: the factor alone may be beyond all numbers.
        let half = exp_of(0.5 * log);
        return sum * half * half;
    }
    let divisor = weight + params.norm_eps * exp_of(-log);
    return lifted_quotient(sum, divisor);
}
