// softplus and SiLU for any finite input, without overflowing on the way. Needs exponential.wgsl.

// ln(1 + u) for 0 <= u <= 1, accurate for small u: 2 atanh(u / (2 + u)), whose argument is at most 1/3.
fn ln_1p(u: f32) -> f32 {
    let s = u / (2.0 + u);
    let q = s * s;
    var p = 1.0 / 15.0;
    p = p * q + 1.0 / 13.0;
    p = p * q + 1.0 / 11.0;
    p = p * q + 1.0 / 9.0;
    p = p * q + 1.0 / 7.0;
    p = p * q + 0.2;
    p = p * q + 1.0 / 3.0;
    return 2.0 * s + 2.0 * s * q * p;
}

fn softplus(x: f32) -> f32 {
    // For |x| > 87 the logarithm is smaller than any normal number: use 0.
    return max(x, 0.0) + select(ln_1p(exponential(-min(abs(x), 87.0))), 0.0, abs(x) > 87.0);
}

fn silus(x: vec4<f32>) -> vec4<f32> {
    let most = vec4<f32>(87.0);
    // Below this, the result is smaller than any normal number.
    return select(x / (1.0 + exponentials(-clamp(x, -most, most))), vec4<f32>(0.0), x < -most);
}

fn silu(x: f32) -> f32 {
    return silus(vec4<f32>(x)).x;
}
