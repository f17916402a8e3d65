//! Tokens of the delta rules one by one, for strengths that chunks cannot take.
//!
//! A write with b = beta |k|^2 multiplies what the state returns for its key by 1 - b. A chunk multiplies with products of keys
//! that were rounded once and are the same whenever the key comes again. The effect of that rounding adds up from token to
//! token unless the factors shrink it: by b / (2 - b) above 1, and without end from 2 on and below 0. Token by token, the
//! rounding differs each time and averages out, as in the definition.

use std::ops::Range;

use crate::cpu::matrix::Mat;
use crate::cpu::simd::wide;

/// The strengths beta |k|^2 that a chunk takes. At the upper end its rounding counts three times.
const TAKEN: Range<f32> = 0.0..1.5;

/// The number of tokens before the first whose strength a chunk does not take. The diagonal of `overlaps`, `[tokens, tokens]`,
/// holds the squares of the keys. Later tokens have no influence on the result.
pub(super) fn taken(tokens: usize, overlaps: &[f32], beta: Mat<'_>) -> usize {
    let strength = |i: usize| beta.row(i, 1)[0] * overlaps[i * (tokens + 1)];
    (0..tokens).position(|i| strength(i) < TAKEN.start || strength(i) > TAKEN.end).unwrap_or(tokens)
}

wide! {
    /// `out = x S` for a state with rows of length `width`.
    pub(super) fn read(x: &[f32], state: &[f32], width: usize, out: &mut [f32]) {
        out.fill(0.0);
        // Four rows at a time, so that the sums are loaded and stored once for all four.
        let (fours, few) = (state.chunks_exact(4 * width), x.chunks_exact(4));
        let (last, last_factors) = (fours.remainder(), few.remainder());
        for (four, x) in fours.zip(few) {
            let (a, four) = four.split_at(width);
            let (b, four) = four.split_at(width);
            let (c, d) = four.split_at(width);
            for i in 0..width {
                out[i] += (x[0] * a[i] + x[1] * b[i]) + (x[2] * c[i] + x[3] * d[i]);
            }
        }
        for (row, x) in last.chunks_exact(width).zip(last_factors) {
            out.iter_mut().zip(row).for_each(|(out, row)| *out += x * row);
        }
    }
}

wide! {
    /// Adds the write of a token to a state: `S += k (beta (v - answer))^T`. `answer` is what the state returns for
    /// k; it becomes the row that is written.
    pub(super) fn write(k: &[f32], beta: f32, v: &[f32], answer: &mut [f32], state: &mut [f32]) {
        for (answer, v) in answer.iter_mut().zip(v) {
            *answer = beta * (v - *answer);
        }
        for (row, k) in state.chunks_exact_mut(answer.len()).zip(k) {
            for (x, answer) in row.iter_mut().zip(answer.iter()) {
                *x += k * answer;
            }
        }
    }
}
