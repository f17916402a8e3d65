// performer: scales and normalises the sums of a row. Sum and weight both lack the factor e^(running maximum + largest log
// feature of the query). norm_eps is divided by that factor; sums that are not normalised are multiplied by it.
fn normalize(row: u32, sum: vec4<f32>, weight: f32) -> vec4<f32> {
    let log = wg_shift[row % TILE] + wg_shift[TILE + row];
    if (NORMALIZE == 0u) {
        // In two steps, because the whole factor may overflow.
        let half = exp_of(0.5 * log);
        return params.scale * sum * half * half;
    }
    let divisor = params.scale * weight + params.norm_eps * exp_of(-log);
    return lifted_quotient(params.scale * sum, divisor);
}
