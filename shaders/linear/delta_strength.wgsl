// Whether a triangular system of a delta rule takes a write of this strength, beta |k|^2 (delta.wgsl). The rounding of a write
// counts strength / (2 - strength) times: at the strongest three times.
fn is_taken(strength: f32) -> bool {
    return strength >= 0.0 && strength <= 1.5;
}
