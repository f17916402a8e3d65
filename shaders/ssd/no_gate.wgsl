// No gate.
fn gate_at(at: u32) -> f32 {
    return 0.0;
}
