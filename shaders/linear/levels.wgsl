// Exponents relative to a level (exponential.wgsl), and quotients of what is left where two of them are far apart.

// e^x for x that is not positive or hardly: below the normal numbers 0.
fn exp_down(x: vec4<f32>) -> vec4<f32> {
    return select(exponentials(clamp(x, vec4<f32>(-87.0), vec4<f32>(88.0))), vec4<f32>(0.0), x < vec4<f32>(-87.0));
}

// e^x of any x, as far as there are numbers.
fn exp_of(x: f32) -> f32 {
    return exponential(clamp(x, -87.0, 88.0));
}

// Sums over a weight that may be next to nothing, which divisions need not take; of nothing at all zero.
fn lifted_quotient(sum: vec4<f32>, divisor: f32) -> vec4<f32> {
    let lift = select(1.0, 1.2676506e30, divisor < 1e-30);
    return select(sum * lift / (divisor * lift), vec4<f32>(0.0), divisor * lift == 0.0);
}
