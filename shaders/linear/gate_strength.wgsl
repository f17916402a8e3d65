// Strengths sigmoid(beta).
fn gate_of(head: u32, beta: f32) -> f32 {
    let e = exponential(-min(abs(beta), 87.0));
    return select(e, 1.0, beta >= 0.0) / (1.0 + e);
}
