//! Functions shared by the `cpu` backends of operators over `[B, C, N]`: reading and writing the tokens of a channel,
//! and activations as loops that are vectorised.

use crate::cpu::simd::wide;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use crate::cpu::simd::{exp, exp_signed, multiply_add};
use crate::cpu::tiles::{Output, Pointer};
use crate::tensor::{DType, HostTensor, Layout, Values};

/// The rate of a state space model from its logarithm: `-e^min(x, 88)`, which is finite.
pub(crate) fn rate(log: f32) -> f32 {
    -(if log > 88.0 { 88.0 } else { log }).exp()
}

/// One output of a causal convolution of a channel, without its bias: the taps meet every `dilation`th input before the
/// token, which `before` holds oldest first, and the token's own. The inputs move on by one.
pub(crate) fn convolve(taps: &[f32], dilation: usize, before: &mut [f32], input: f32) -> f32 {
    let Some((last, taps)) = taps.split_last() else { return 0.0 };
    let sum = taps.iter().zip(before.iter().step_by(dilation)).map(|(tap, x)| tap * x).sum::<f32>();
    if let Some(newest) = before.len().checked_sub(1) {
        before.copy_within(1.., 0);
        before[newest] = input;
    }
    sum + last * input
}

/// Elements of a tensor as f32: in place, or converted into `space`.
pub(crate) fn span<'a>(tensor: &'a HostTensor, range: Range<usize>, space: &'a mut [f32]) -> &'a [f32] {
    match tensor.values() {
        Values::F32(x) => &x[range],
        Values::F16(x) => {
            let space = &mut space[..range.len()];
            x[range].convert_to_f32_slice(space);
            space
        }
        Values::I64(_) | Values::I32(_) | Values::U32(_) | Values::U8(_) => {
            unreachable!("sequence tensors are f32 or f16")
        }
    }
}

impl Output {
    /// Allocates room for `length` tokens of `rows` rows (batch, channel).
    pub(crate) fn rows(dtype: DType, rows: usize, length: usize) -> Self {
        Self::new(dtype, Layout::Bhnd, [1, rows, length, 1])
    }

    /// Writes tokens of a row, from token `first` on.
    ///
    /// # Safety
    /// Every token must be stored exactly once.
    pub(crate) unsafe fn span(&self, row: usize, first: usize, values: &[f32]) {
        assert!(self.dim == 1 && row < self.batch * self.heads && first + values.len() <= self.len);
        let at = row * self.len + first;
        // SAFETY: the assert keeps the elements inside the allocation, and by this function's contract no other thread
        // writes them.
        unsafe {
            match self.pointer {
                Pointer::F32(p) => p.add(at).copy_from_nonoverlapping(values.as_ptr(), values.len()),
                Pointer::F16(p) => {
                    // Uninitialised memory must not become a slice, so it is cleared first.
                    p.add(at).write_bytes(0, values.len());
                    std::slice::from_raw_parts_mut(p.add(at), values.len()).convert_from_f32_slice(values);
                }
            }
        }
        self.written.fetch_add(values.len(), std::sync::atomic::Ordering::Relaxed);
    }
}

/// `ln(1 + u)` for u from 0 to 1, within 2 ulp for small u too: 2 atanh(u / (2 + u)), whose argument is at most 1/3.
#[inline(always)]
fn ln_1p<const FUSED: bool>(u: f32) -> f32 {
    let s = u / (2.0 + u);
    let q = s * s;
    let mut p = 1.0 / 15.0;
    for n in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = multiply_add::<FUSED>(p, q, 1.0 / n);
    }
    multiply_add::<FUSED>(2.0 * s * q, p, 2.0 * s)
}

wide! {
    /// `ln(1 + e^x)` of every element, without overflow; NaN stays NaN.
    pub(crate) fn softplus<FUSED>(x: &mut [f32]) {
        for x in x {
            let positive = if *x < 0.0 { 0.0 } else { *x };
            *x = positive + ln_1p::<FUSED>(exp::<FUSED>(-x.abs()));
        }
    }
}

wide! {
    /// `x / (1 + e^-x)` of every element.
    pub(crate) fn silu<FUSED>(x: &mut [f32]) {
        for x in x {
            *x /= 1.0 + exp_signed::<FUSED>(-*x);
        }
    }
}

wide! {
    /// `1 / (1 + e^-x)` of every element.
    pub(crate) fn sigmoid<FUSED>(x: &mut [f32]) {
        for x in x {
            *x = 1.0 / (1.0 + exp_signed::<FUSED>(-*x));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_right_to_few_places_of_their_size() {
        let x: Vec<f32> = (0..400_000).map(|i| (i as f32 - 200_000.0) * 4e-4).collect();
        let (mut soft, mut gate) = (x.clone(), x.clone());
        softplus(&mut soft);
        silu(&mut gate);
        for ((x, soft), gate) in x.into_iter().map(f64::from).zip(soft).zip(gate) {
            let want = if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() };
            assert!((f64::from(soft) / want - 1.0).abs() < 4e-7, "softplus of {x}: {soft}, expected {want}");
            let want = x / (1.0 + (-x).exp());
            assert!((f64::from(gate) - want).abs() <= 4e-7 * want.abs(), "SiLU of {x}: {gate}, expected {want}");
        }
        let mut ends = [-1e30, -200.0, 0.0, 20.5, 3e38, f32::INFINITY];
        softplus(&mut ends);
        assert_eq!(ends, [0.0, 0.0, std::f32::consts::LN_2, 20.5, 3e38, f32::INFINITY]);
        let mut ends = [-1e30, 0.0, 100.0];
        silu(&mut ends);
        assert_eq!(ends, [0.0, 0.0, 100.0]);
        let mut nan = [f32::NAN];
        softplus(&mut nan);
        assert!(nan[0].is_nan());
    }
}
