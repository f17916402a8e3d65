// Decode: divides a scaled sum by its weight, if normalised. Returns 0 if the weight is 0.
fn normalize_one(sum: f32, weight: f32) -> f32 {
    if (NORMALIZE == 0u) {
        return sum;
    }
    let divisor = weight + params.norm_eps;
    return select(sum / divisor, 0.0, divisor == 0.0);
}
