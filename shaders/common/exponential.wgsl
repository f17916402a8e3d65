// Exponentials within one unit in the last place, where those of a device may be off by several, and always to the same side:
// errors of a decay add up over all the tokens that it lasts. Multiply-adds are also what a GPU has most of.

// 2^x. Below the normal numbers it is 0. NaN stays NaN.
fn power2(x: vec4<f32>) -> vec4<f32> {
    let n = round(clamp(x, vec4<f32>(-127.0), vec4<f32>(128.0)));
    let f = x - n;
    var p = 0.00015353362 * f + 0.00133988739;
    p = p * f + 0.00961843692;
    p = p * f + 0.0555033237;
    p = p * f + 0.240226477;
    p = p * f + 0.693147182;
    p = p * f + 1.0;
    // The bits of 2^n; none for n = -127.
    let y = p * bitcast<vec4<f32>>(vec4<u32>(vec4<i32>(n) + 127) << vec4<u32>(23u));
    return select(y, vec4<f32>(0.0), x < vec4<f32>(-126.5));
}

// e^x for x from -87 to 88.
fn exponentials(x: vec4<f32>) -> vec4<f32> {
    let n = round(x * 1.4426950408889634);
    // ln 2 in two parts; the product with the first, which has nine bits, is exact.
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    return power2(r * 1.4426950408889634) * power2(n);
}

fn exponential(x: f32) -> f32 {
    return exponentials(vec4<f32>(x)).x;
}
