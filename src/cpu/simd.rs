//! Loops over floats that compile to vector code.

/// Compiles a loop over floats several times on x86-64, and runs the widest version that the machine supports.
///
/// A plain function is compiled for the baseline (SSE2) and for AVX2, without fused multiply-add, so that both give the same bits.
/// A function `name<FUSED>(..)` is compiled for the baseline, for AVX2 with FMA and for AVX-512. In its body FUSED says whether
/// [`multiply_add`] is one instruction; the bits differ between machines.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$fused:ident>($($arg:ident: $type:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const $fused: bool>($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the machine has AVX-512.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the machine has AVX2 and FMA.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has AVX2.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use wide;

wide! {
    /// `elu(x) + 1` of every element.
    pub(crate) fn elu1<FUSED>(x: &mut [f32]) {
        for x in x {
            *x = if *x > 0.0 { *x + 1.0 } else { exp::<FUSED>(*x) };
        }
    }
}

wide! {
    /// `max(x, 0)` of every element. A NaN becomes 0, as in the definition.
    pub(crate) fn relu(x: &mut [f32]) {
        for x in x {
            *x = if *x > 0.0 { *x } else { 0.0 };
        }
    }
}

/// `x y + z`, in one rounding if FUSED.
#[inline(always)]
pub(crate) fn multiply_add<const FUSED: bool>(x: f32, y: f32, z: f32) -> f32 {
    if FUSED { x.mul_add(y, z) } else { x * y + z }
}

/// `e^x` for `x <= 0`, with an error of at most 1 ulp. It has no branches, so that a loop over it is vectorised, unlike
/// a loop over `f32::exp`. The result is 0 below the range of normal numbers, and NaN for NaN.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.336_54;
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 is split into two parts. The first has nine bits, so that its product with n is exact.
    let r = multiply_add::<FUSED>(n, 2.121_944_4e-4, multiply_add::<FUSED>(n, -355.0 / 512.0, x));
    // Coefficients of Cephes' expf.
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = multiply_add::<FUSED>(p, r, c);
    }
    // The exponent of y is that of a number near 1; n is added to it.
    let y = multiply_add::<FUSED>(p, r * r, r) + 1.0;
    let y = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < LOWEST { 0.0 } else { y }
}

/// `e^x` for any x, with the precision of [`exp`]. Above 88.3, slightly before f32 overflows, it is infinite.
#[inline(always)]
pub(crate) fn exp_signed<const FUSED: bool>(x: f32) -> f32 {
    // Above this, the power of two nearest to e^x may not be representable in f32.
    const HIGHEST: f32 = 88.3;
    let y = exp::<FUSED>(if x > HIGHEST { HIGHEST } else { x });
    if x > HIGHEST { f32::INFINITY } else { y }
}

wide! {
    /// Whether all elements are finite.
    pub(crate) fn finite(x: &[f32]) -> bool {
        // Without a sign, the bits of floats are in their order, NaN above infinity. There is no early end, so that the loop is
        // vectorised.
        x.iter().fold(0, |top: u32, x| top.max(x.to_bits() & 0x7fff_ffff)) < 0x7f80_0000
    }
}

/// Number of independent partial sums in reductions. The compiler may not reorder floating-point sums by itself.
const LANES: usize = 16;

wide! {
    /// Sum of all elements, in a fixed order.
    pub(crate) fn sum(x: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest: f32 = chunks.remainder().iter().sum();
        for chunk in chunks {
            for i in 0..LANES {
                lanes[i] += chunk[i];
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}

wide! {
    /// Inner product, in a fixed order.
    pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
        let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
        for (x, y) in xs.zip(ys) {
            for i in 0..LANES {
                lanes[i] += x[i] * y[i];
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}

/// Inner products of each of some rows with each of others, each as [`dot`] sums it. They are computed together, so that every
/// element is loaded once.
#[inline(always)]
fn dots<const W: usize, const X: usize>(w: [&[f32]; W], x: [&[f32]; X]) -> [[f32; X]; W] {
    let mut lanes = [[[0.0f32; LANES]; X]; W];
    let whole = x[0].len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let x = x.map(|x| &x[at..at + LANES]);
        for (w, lanes) in w.iter().zip(&mut lanes) {
            let w = &w[at..at + LANES];
            for (x, lanes) in x.iter().zip(lanes) {
                for i in 0..LANES {
                    lanes[i] += w[i] * x[i];
                }
            }
        }
    }
    let mut sums = [[0.0; X]; W];
    for i in 0..W {
        for j in 0..X {
            let rest: f32 = w[i][whole..].iter().zip(&x[j][whole..]).map(|(w, x)| w * x).sum();
            sums[i][j] = lanes[i][j].iter().sum::<f32>() + rest;
        }
    }
    sums
}

wide! {
    /// Inner products of four rows with one.
    pub(crate) fn four_dots(w: [&[f32]; 4], x: &[f32]) -> [f32; 4] {
        dots(w, [x]).map(|[sum]| sum)
    }
}

wide! {
    /// Inner products of two rows with two others: of the first with both, then of the second.
    pub(crate) fn pairs_of_dots(w: [&[f32]; 2], x: [&[f32]; 2]) -> [f32; 4] {
        let [[a, b], [c, d]] = dots(w, x);
        [a, b, c, d]
    }
}

wide! {
    /// `x *= factor`.
    pub(crate) fn scale(x: &mut [f32], factor: f32) {
        for x in x {
            *x *= factor;
        }
    }
}

wide! {
    /// `x *= y`, element by element.
    pub(crate) fn multiply(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x *= y;
        }
    }
}

wide! {
    /// `x += y`.
    pub(crate) fn add(x: &mut [f32], y: &[f32]) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }
}

wide! {
    /// `x += y * factor`.
    pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y * factor;
        }
    }
}

wide! {
    /// `x = x * decay + y * factor`. Returns the inner product of the new x with z, in a fixed order.
    pub(crate) fn decay_add_dot(x: &mut [f32], decay: f32, y: &[f32], factor: f32, z: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        let whole = x.len() / LANES * LANES;
        for first in (0..whole).step_by(LANES) {
            let (x, y, z) = (&mut x[first..][..LANES], &y[first..][..LANES], &z[first..][..LANES]);
            for i in 0..LANES {
                x[i] = x[i] * decay + y[i] * factor;
                lanes[i] += x[i] * z[i];
            }
        }
        let mut rest = 0.0;
        for i in whole..x.len() {
            x[i] = x[i] * decay + y[i] * factor;
            rest += x[i] * z[i];
        }
        lanes.iter().sum::<f32>() + rest
    }
}

wide! {
    /// `z + x * y`, element by element, written to z.
    pub(crate) fn add_product(z: &mut [f32], x: &[f32], y: &[f32]) {
        for (z, (x, y)) in z.iter_mut().zip(x.iter().zip(y)) {
            *z += x * y;
        }
    }
}

wide! {
    /// `z = x + y`.
    pub(crate) fn add_into(z: &mut [f32], x: &[f32], y: &[f32]) {
        for ((z, x), y) in z.iter_mut().zip(x).zip(y) {
            *z = x + y;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_products_do_not_depend_on_those_beside_them() {
        for len in [1, 15, 16, 47, 300] {
            let rows: Vec<Vec<f32>> =
                (0..6).map(|row| (0..len).map(|i| ((i * 7 + row * 31) as f32).sin()).collect()).collect();
            let [a, b, c, d, x, y] = [0, 1, 2, 3, 4, 5].map(|row| &rows[row][..]);
            assert_eq!(four_dots([a, b, c, d], x), [dot(a, x), dot(b, x), dot(c, x), dot(d, x)], "{len}");
            assert_eq!(pairs_of_dots([a, b], [x, y]), [dot(a, x), dot(a, y), dot(b, x), dot(b, y)], "{len}");
        }
    }

    wide! {
        fn exponentials<FUSED>(x: &mut [f32]) {
            x.iter_mut().for_each(|x| *x = exp_signed::<FUSED>(*x));
        }
    }

    #[test]
    fn exponentials_are_right_to_the_last_place() {
        let plain = |x: &mut [f32]| x.iter_mut().for_each(|x| *x = exp_signed::<false>(*x));
        for of in [exponentials, plain as fn(&mut [f32])] {
            let all: Vec<f32> = (0..4_000_000u32).map(|i| 88.3 - (i as f32) * (175.6 / 4e6)).collect();
            let mut found = all.clone();
            of(&mut found);
            for (x, got) in all.into_iter().zip(found) {
                let want = f64::from(x).exp();
                assert!((f64::from(got) / want - 1.0).abs() < 1.2e-7, "e^{x}: {got}, expected {want}");
            }
            let mut ends = [0.0, f32::NEG_INFINITY, -3e38, -88.0, 89.0, f32::INFINITY];
            of(&mut ends);
            assert_eq!(ends, [1.0, 0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]);
            let mut nan = [f32::NAN];
            of(&mut nan);
            assert!(nan[0].is_nan());
        }
    }
}
