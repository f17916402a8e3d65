// Feature map: max(x, 0).
fn feature(x: f32) -> f32 {
    return max(x, 0.0);
}
