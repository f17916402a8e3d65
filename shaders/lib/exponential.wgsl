// Exponentials accurate to one unit in the last place. A device's own `exp` may be off by several units, always in the same
// direction, and the errors of a decay accumulate over its lifetime. These use multiply-adds, which GPUs do fastest.

// 2^x. Returns 0 below the normal numbers, and NaN for NaN.
fn power2(x: vec4<f32>) -> vec4<f32> {
    let n = round(clamp(x, vec4<f32>(-127.0), vec4<f32>(128.0)));
    let f = x - n;
    var p = 0.00015353362 * f + 0.00133988739;
    p = p * f + 0.00961843692;
    p = p * f + 0.0555033237;
    p = p * f + 0.240226477;
    p = p * f + 0.693147182;
    p = p * f + 1.0;
    // The bits of 2^n; all zero for n = -127.
    let y = p * bitcast<vec4<f32>>(vec4<u32>(vec4<i32>(n) + 127) << vec4<u32>(23u));
    return select(y, vec4<f32>(0.0), x < vec4<f32>(-126.5));
}

// e^x for -87 <= x <= 88.
fn exponentials(x: vec4<f32>) -> vec4<f32> {
    let n = round(x * 1.4426950408889634);
    // ln 2 in two parts. The first has nine bits, so its product with n is exact.
    let r = (x - n * 0.693359375) + n * 2.12194440e-4;
    return power2(r * 1.4426950408889634) * power2(n);
}

fn exponential(x: f32) -> f32 {
    return exponentials(vec4<f32>(x)).x;
}
