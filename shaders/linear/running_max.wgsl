// Exponentials relative to a running maximum (needs exponential.wgsl), and quotients of very small numbers.

// e^x for x at most slightly above 0. Returns 0 below the normal numbers.
fn exp_down(x: vec4<f32>) -> vec4<f32> {
    return select(exponentials(clamp(x, vec4<f32>(-87.0), vec4<f32>(88.0))), vec4<f32>(0.0), x < vec4<f32>(-87.0));
}

// e^x for any x, limited to the range of normal numbers.
fn exp_of(x: f32) -> f32 {
    return exponential(clamp(x, -87.0, 88.0));
}

// Quotient for a divisor that may be too small for an accurate division. Returns 0 if the divisor is 0.
fn lifted_quotient(sum: vec4<f32>, divisor: f32) -> vec4<f32> {
    let lift = select(1.0, 1.2676506e30, divisor < 1e-30);
    return select(sum * lift / (divisor * lift), vec4<f32>(0.0), divisor * lift == 0.0);
}
