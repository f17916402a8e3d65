// performer without log decays.
fn log_of(p: Place, n: u32) -> f32 {
    return 0.0;
}
