// Stores the logarithm of the sum of exponentials of every row.
// The values are kept as bits: WGSL has no minus infinity, which is that of a row that sees nothing.
@group(0) @binding(LSE_BINDING) var<storage, read_write> lse: array<u32>; // B H N

const LSE: bool = true;

// ln(x) for a normal number: 2 atanh((m - 1) / (m + 1)) of the mantissa m, which is between the roots of 1/2 and 2.
fn log_of(x: f32) -> f32 {
    let bits = bitcast<u32>(x) - 0x3f3504f3u;
    let exponent = f32(bitcast<i32>(bits) >> 23u);
    let m = bitcast<f32>((bits & 0x007fffffu) + 0x3f3504f3u);
    let t = (m - 1.0) / (m + 1.0);
    let q = t * t;
    let p = q * (1.0 / 3.0 + q * (0.2 + q * (1.0 / 7.0 + q * (1.0 / 9.0))));
    return 2.0 * t + 2.0 * t * p + exponent * 0.69314718;
}

// Stores the value of a row with this maximum, in units of log 2, and this sum of exponentials relative to it.
fn store_lse(b: u32, h: u32, n: u32, top: f32, sum: f32) {
    count_store(1u);
    let at = head_start(params.lse, b, h) + n * params.lse.token;
    lse[at] = select(bitcast<u32>(top * 0.69314718 + log_of(sum)), 0xff800000u, sum == 0.0);
}
