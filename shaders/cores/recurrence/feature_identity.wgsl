// Feature map: identity.
fn feature(x: f32) -> f32 {
    return x;
}
