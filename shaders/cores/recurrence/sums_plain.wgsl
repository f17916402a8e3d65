// Sums that queries read as given.
fn sum_scale(row: u32) -> f32 {
    return 1.0;
}
