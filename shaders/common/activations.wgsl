// softplus and SiLU of any finite number, without infinities on the way; over exponential.wgsl.

// ln(1 + u) for u from 0 to 1, exact for small u too: 2 atanh(u / (2 + u)), whose argument is at most 1/3.
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
    // Below the normal numbers it is 0.
    return max(x, 0.0) + select(ln_1p(exponential(-min(abs(x), 87.0))), 0.0, abs(x) > 87.0);
}

fn silu(x: f32) -> f32 {
    // Below, the result is smaller than any normal number.
    return select(x / (1.0 + exponential(-clamp(x, -87.0, 87.0))), 0.0, x < -87.0);
}
