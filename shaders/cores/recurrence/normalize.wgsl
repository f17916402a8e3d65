// Scales the sums of a row, and divides them by their scaled weight, if normalised. Returns 0 if the weight is 0.
fn normalize(row: u32, sum: vec4<f32>, weight: f32) -> vec4<f32> {
    if (NORMALIZE == 0u) {
        return params.scale * sum;
    }
    let divisor = params.scale * weight + params.norm_eps;
    return sum * select(params.scale / divisor, 0.0, divisor == 0.0);
}
