// Shares of a standard normal distribution below x, for any x: (1 + erf(x / sqrt 2)) / 2. Needs exponential.wgsl.
//
// The share beyond |x| is e^(-x^2 / 2) times a function that falls slowly: a polynomial in 1 / (1 + 0.35 |x|), fitted to it from
// 0 to 13 with an error of 3.2e-8 of itself. Beyond 13 the share is less than any normal number.
fn normal_shares(x: vec4<f32>) -> vec4<f32> {
    let size = min(abs(x), vec4<f32>(13.0));
    let t = 1.0 / (1.0 + 0.35 * size);
    var p = -0.029095206409692764 * t + 0.14372007548809052;
    p = p * t - 0.25518330931663513;
    p = p * t + 0.15855352580547333;
    p = p * t - 0.022671597078442574;
    p = p * t + 0.10531723499298096;
    p = p * t + 0.11988268792629242;
    p = p * t + 0.13985475897789001;
    p = p * t + 0.1396218240261078;
    let beyond = select(p * t * exponentials(-0.5 * size * size), vec4<f32>(0.0), size >= vec4<f32>(13.0));
    return select(1.0 - beyond, beyond, x < vec4<f32>(0.0));
}
