// Divides the scaled sums of a row by their weight, if normalised. Returns 0 if the weight is 0.
fn normalize(row: u32, sum: vec4<f32>, weight: f32) -> vec4<f32> {
    if (NORMALIZE == 0u) {
        return sum;
    }
    let divisor = weight + params.norm_eps;
    return sum * select(1.0 / divisor, 0.0, divisor == 0.0);
}
