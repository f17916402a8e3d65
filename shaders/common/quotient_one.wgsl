// One token: its scaled sum divided by its weight if there is one; zero where that is nothing at all.
fn quotient_one(sum: f32, weight: f32) -> f32 {
    if (NORMALIZE == 0u) {
        return sum;
    }
    let divisor = weight + params.norm_eps;
    return select(sum / divisor, 0.0, divisor == 0.0);
}
