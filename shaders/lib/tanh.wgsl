// tanh x for any x, within a few units in the last place. A device's own may overflow for large x, and is as inexact as its
// exponential. Needs exponential.wgsl.
fn hyperbolic_tangent(x: f32) -> f32 {
    let size = min(abs(x), 20.0);
    // Near 0: a polynomial for (tanh x - x) / x^3 (Cephes, tanhf).
    let z = size * size;
    var p = -5.70498872745e-3 * z + 2.06390887954e-2;
    p = p * z - 5.37397155531e-2;
    p = p * z + 1.33314422036e-1;
    p = p * z - 3.33332819422e-1;
    let small = size + size * z * p;
    let e = exponential(-2.0 * size);
    let y = select((1.0 - e) / (1.0 + e), small, size < 0.625);
    // `min` may turn what is not a number into one.
    let is_nan = (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
    return select(select(y, -y, x < 0.0), x, is_nan);
}
