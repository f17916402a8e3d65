// Retention: the factor by which a write scales the mass of its slot. An override selects the rule. Infinities are detected
// by their bits, because compilers may assume that there are none.
override PDMA: u32 = 0u;

// Every write multiplies the mass of its slot, so errors of a device's `exp` and `log` would accumulate. These two are
// accurate to the last places.

// e^x, with x clamped to -87 .. 88.
fn exactly_exp(x: f32) -> f32 {
    let within = clamp(x, -87.0, 88.0);
    let n = round(within * 1.4426950);
    // ln 2 in two parts. The first has nine bits, so its product with n is exact.
    let r = (within - n * 0.693359375) + n * 2.12194440e-4;
    // Coefficients of Cephes' expf.
    var p = 1.9875691e-4;
    p = p * r + 1.3981999e-3;
    p = p * r + 8.3334520e-3;
    p = p * r + 4.1665796e-2;
    p = p * r + 1.6666666e-1;
    p = p * r + 0.5;
    return (p * (r * r) + r + 1.0) * bitcast<f32>(u32(i32(n) + 127) << 23u);
}

// ln(1 - w).
fn log1m(w: f32) -> f32 {
    // ln x = 2 artanh((x - 1) / (x + 1)), after splitting a power of two off x.
    var s = w / (w - 2.0);
    var power = 0.0;
    if (w > 0.29) {
        let bits = bitcast<u32>(1.0 - w);
        let halved = bits - 0x3f3504f3u; // keeps `rest` between sqrt(1/2) and sqrt(2)
        let rest = bitcast<f32>((halved & 0x007fffffu) + 0x3f3504f3u);
        power = f32(bitcast<i32>(halved) >> 23u);
        s = (rest - 1.0) / (rest + 1.0);
    }
    let t = s * s;
    let series = t * (1.0 / 3.0 + t * (0.2 + t * (1.0 / 7.0 + t * (1.0 / 9.0 + t * (1.0 / 11.0)))));
    return power * 0.6931472 + 2.0 * (s + s * series);
}

fn retention(w: f32, gamma: f32) -> f32 {
    let bits = bitcast<u32>(gamma);
    if ((bits & 0x7fffffffu) == 0x7f800000u) {
        return select(0.0, 1.0, (bits >> 31u) == 1u);
    }
    if (PDMA == 1u) {
        if (gamma == 0.0) {
            return 1.0; // 0^0 = 1
        }
        if (w >= 1.0) {
            return select(1.0, 0.0, gamma > 0.0);
        }
        return exactly_exp(gamma * log1m(w));
    }
    if (w >= 1.0) {
        return 0.0;
    }
    return 1.0 / (1.0 + exactly_exp(clamp(gamma, -60.0, 60.0)) * (w / (1.0 - w)));
}
