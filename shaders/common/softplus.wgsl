// ln(1 + e^x) of any x: what exceeds max(x, 0) is ln(1 + y) of y <= 1, by the series of the inverse hyperbolic tangent, since
// near 0 a logarithm of 1 + y has lost the digits of y.
fn softplus(x: f32) -> f32 {
    let y = exp(-abs(x));
    let s = y / (2.0 + y);
    let s2 = s * s;
    let far = 0.11111111 + s2 * (0.09090909 + s2 * (0.07692308 + s2 * 0.06666667));
    let series = 1.0 + s2 * (0.33333334 + s2 * (0.2 + s2 * (0.14285715 + s2 * far)));
    return max(x, 0.0) + 2.0 * s * series;
}
