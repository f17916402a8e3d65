// Factors 2^x by which a state is multiplied again and again. Errors of a factor near 1 accumulate over many tokens, so those
// come from a polynomial whose errors have no bias. Errors of other factors are forgotten within a few tokens: those come from
// the device's own exp2, whatever its bias. decays_software.wgsl is for devices whose exp2 is slower than a polynomial.
fn decays(x: vec4<f32>) -> vec4<f32> {
    var p = 0.0013345479 * x + 0.00963017;
    p = p * x + 0.05550409;
    p = p * x + 0.24022631;
    p = p * x + 0.6931472;
    p = p * x + 1.0;
    return select(p, exp2(x), abs(x) > vec4<f32>(0.25));
}
