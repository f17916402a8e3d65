// Values as given.
fn value_scale(t: u32) -> f32 {
    return 1.0;
}
