//! The tiled attention core on the CPU, the counterpart of `shaders/cores/attention/attention.wgsl`. A block of queries
//! is compared with the keys that it sees, tile by tile, with a running sum of weights and, if weights are exponentials
//! of scores, a running maximum.

use crate::cpu::simd;
use crate::cpu::simd::wide;
use std::ops::Range;

use crate::cores::attention::{Mask, essential, key_counts};
use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::threads::{each, scratch};
use crate::cpu::tiles::{Output, Source};
use crate::operator::qkv::Qkv;
use crate::tensor::TensorMap;

/// Queries per block and keys per tile. Measured at head dim 64: half as many queries were slower, because the matrix
/// products pack the keys more often. Twice as many of either gain at most 3%, and leave fewer blocks for short
/// sequences.
const QUERIES: usize = 128;
const KEYS: usize = 256;

/// Attention on host tensors.
pub(crate) struct Attend<'a> {
    /// Shapes. M is the length of `k` and `v` as given here.
    pub(crate) shape: Qkv,
    /// The mask: which keys a query sees.
    pub(crate) mask: Mask,
    /// Keys of each batch entry, where they are not all those of the tensor.
    pub(crate) lengths: Option<Vec<usize>>,
    /// How the product of a query and a key becomes a score.
    pub(crate) score: Score<'a>,
    /// How scores become weights.
    pub(crate) weights: Weights,
    /// `[B, H, N, D]`.
    pub(crate) q: Source<'a>,
    /// `[B, G, M, D]`.
    pub(crate) k: Source<'a>,
    /// `[B, G, M, E]`.
    pub(crate) v: Source<'a>,
}

/// How the product of a query and a key becomes a score.
pub(crate) enum Score<'a> {
    /// The score is the product times this factor.
    Scaled(f32),
    /// The score is computed by a function.
    Map(&'a dyn Map),
}

/// How scores become weights.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Weights {
    /// The weights are the exponentials of the scores, divided by their sum.
    Softmax,
    /// The weights are the scores, divided by their sum plus this number.
    Plain(f32),
}

/// A score that needs more than the product of a query and a key. It must be symmetric in the two vectors.
pub(crate) trait Map: Sync {
    /// Turns the products of one vector with several others into scores, times `factor`. `squares` are the sums of
    /// squares of the other vectors, `square` is that of the one vector. `apart(i, a, b)` is the squared distance
    /// between other vector i divided by a and the one vector divided by b.
    fn map(
        &self,
        products: &mut [f32],
        squares: &[f32],
        square: f32,
        factor: f32,
        apart: &dyn Fn(usize, f32, f32) -> f32,
    );
}

/// Attention over q, k and v of `tensors` as they are, with their lengths if they are to be taken; returns o.
pub(crate) fn run(
    shape: Qkv,
    mask: Mask,
    lengths: bool,
    score: Score<'_>,
    weights: Weights,
    tensors: &TensorMap,
) -> TensorMap {
    let lengths = lengths.then(|| key_counts(&shape, tensors));
    let [q, k, v] = ["q", "k", "v"].map(|name| {
        let tensor = tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        Source::new(tensor, shape.layout, None)
    });
    let o = Output::new(shape.dtype, shape.layout, [shape.batch, shape.heads, shape.queries, shape.dim_v]);
    Attend { shape, mask, lengths, score, weights, q, k, v }.run(&o);
    [("o".to_owned(), o.finish())].into_iter().collect()
}

/// Describes the tiles, for people.
pub(crate) fn variant() -> String {
    format!("tiles of {QUERIES} queries by {KEYS} keys")
}

impl Attend<'_> {
    /// Computes all of `o`.
    pub(crate) fn run(&self, o: &Output) {
        let s = &self.shape;
        let blocks = s.queries.div_ceil(QUERIES);
        let heads = s.batch * s.heads;
        each(heads * blocks, essential(s, self.mask).flops as u64, |task| {
            // The last blocks of a causal head have the most work, so they are started first.
            let first = (blocks - 1 - task % blocks) * QUERIES;
            self.block(task / blocks, first..(first + QUERIES).min(s.queries), o);
        });
    }

    /// Computes one block. Scores and outputs are stored transposed: a row holds one key, or one column of the values,
    /// for all queries of the block. Maxima, weights and sums are then computed for all queries at once, and the second
    /// matrix product reads the weights without reordering them.
    fn block(&self, head: usize, queries: Range<usize>, o: &Output) {
        let Qkv { heads, dim_k, dim_v, .. } = self.shape;
        let (batch, head) = (head / heads, head % heads);
        let keys = self.lengths.as_ref().map_or(self.shape.keys, |lengths| lengths[batch]);
        let shape = self.shape.keys(keys);
        let kv_head = head / self.shape.group();
        let rows = queries.len();
        let seen = self.mask.keys(&shape, queries.start).start..self.mask.keys(&shape, queries.end - 1).end;
        let tile = KEYS.min(seen.len());
        let space = (rows * dim_k.max(dim_v)).max(tile * dim_k.max(dim_v));
        let sizes = [rows * dim_k, space, space, tile * rows, rows * dim_v, rows, rows, rows, rows, tile];
        scratch(sizes, |[q, space, v_space, scores, out, top, shrink, sum, q_squares, k_squares]| {
            // Exponentials are computed as powers of two: e^x = 2^(x log2 e).
            let base = if self.weights == Weights::Softmax { std::f32::consts::LOG2_E } else { 1.0 };
            let scale = if let Score::Scaled(scale) = self.score { scale * base } else { 1.0 };
            let given = self.q.tile(batch, head, queries.clone(), space);
            for i in 0..rows {
                let row = given.row(i, dim_k);
                for (d, x) in row.iter().enumerate() {
                    q[d * rows + i] = x * scale;
                }
                if let Score::Map(_) = self.score {
                    q_squares[i] = simd::dot(row, row);
                }
            }
            top.fill(LOWEST);
            sum.fill(0.0);
            out.fill(0.0);
            for first in seen.clone().step_by(tile.max(1)) {
                let keys = first..(first + tile).min(seen.end);
                let width = keys.len();
                let k = self.k.tile(batch, kv_head, keys.clone(), space);
                // A single query uses each key only once. A matrix product would have to pack the keys first.
                if rows == 1 {
                    scores.iter_mut().take(width).enumerate().for_each(|(j, s)| *s = simd::dot(q, k.row(j, dim_k)));
                } else {
                    product([width, dim_k, rows], k, Mat::rows(q, rows), Onto::Nothing, scores, rows);
                }
                // The range of queries of this block that see key j.
                let seers = |j: usize| {
                    let all = self.mask.queries(&shape, keys.start + j);
                    let from = all.start.clamp(queries.start, queries.end) - queries.start;
                    from..(all.end.clamp(queries.start, queries.end) - queries.start).max(from)
                };
                let scores = &mut scores[..width * rows];
                if let Score::Map(map) = self.score {
                    for (j, square) in k_squares[..width].iter_mut().enumerate() {
                        *square = simd::dot(k.row(j, dim_k), k.row(j, dim_k));
                    }
                    let apart = |i: usize, j: usize, q_over: f32, k_over: f32| {
                        let steps = k.row(j, dim_k).iter().zip(q[i..].iter().step_by(rows));
                        steps.map(|(k, q)| q / q_over - k / k_over).fold(0.0, |sum, x| sum + x * x)
                    };
                    if rows == 1 {
                        map.map(scores, k_squares, q_squares[0], base, &|j, a, b| apart(0, j, b, a));
                    } else {
                        for (j, row) in scores.chunks_exact_mut(rows).enumerate() {
                            let seers = seers(j);
                            let at = seers.start;
                            let squares = &q_squares[seers.clone()];
                            map.map(&mut row[seers], squares, k_squares[j], base, &|i, a, b| apart(at + i, j, a, b));
                        }
                    }
                }
                // Scores of hidden keys are overwritten, not multiplied by zero, so that they have no effect however
                // large they are. (Values that are not finite still have an effect: a weight of zero times such a value
                // is NaN.)
                let hidden = if self.weights == Weights::Softmax { f32::NEG_INFINITY } else { 0.0 };
                for (j, row) in scores.chunks_exact_mut(rows).enumerate() {
                    let seers = seers(j);
                    row[..seers.start].fill(hidden);
                    row[seers.end..].fill(hidden);
                }
                if self.weights == Weights::Softmax {
                    shrink.copy_from_slice(top);
                    raise(top, scores);
                    shrink.iter_mut().zip(&*top).for_each(|(old, new)| *old = exp2(*old - new));
                    simd::multiply(sum, shrink);
                    if shrink.iter().any(|x| *x != 1.0) {
                        out.chunks_exact_mut(rows).for_each(|row| simd::multiply(row, shrink));
                    }
                    weigh(scores, top, sum);
                } else {
                    scores.chunks_exact(rows).for_each(|row| simd::add(sum, row));
                }
                let v = self.v.tile(batch, kv_head, keys, v_space);
                if rows == 1 {
                    scores.iter().enumerate().for_each(|(j, w)| simd::add_scaled(out, v.row(j, dim_v), *w));
                } else {
                    product([dim_v, width, rows], v.t(), Mat::rows(scores, rows), Onto::Sum, out, rows);
                }
            }
            // A query without any weight, for example one that sees no key, gives zeros.
            let more = if let Weights::Plain(more) = self.weights { more } else { 0.0 };
            sum.iter_mut().for_each(|sum| *sum = if *sum + more == 0.0 { 1.0 } else { 1.0 / (*sum + more) });
            for (i, row) in space.chunks_exact_mut(dim_v).take(rows).enumerate() {
                row.iter_mut().zip(out[i..].iter().step_by(rows)).for_each(|(x, out)| *x = *out);
            }
            // SAFETY: blocks do not overlap, and each is visited once.
            unsafe { o.store(batch, head, queries.clone(), space, sum) };
        });
    }
}

/// The maximum of a query that has seen no key yet. It is finite, and no finite score is lower.
const LOWEST: f32 = f32::MIN;

/// Number of queries whose maxima and sums stay in registers while the keys of a tile are processed.
const STRIP: usize = 16;

wide! {
    /// `top_i = max(top_i, scores_ji)` over all keys j. NaN scores are skipped here, but make the weights NaN later.
    fn raise(top: &mut [f32], scores: &[f32]) {
        let rows = top.len();
        for (at, top) in top.chunks_mut(STRIP).enumerate() {
            let mut lanes = [LOWEST; STRIP];
            lanes[..top.len()].copy_from_slice(top);
            for row in scores.chunks_exact(rows) {
                let row = &row[at * STRIP..];
                if let Some(row) = row.first_chunk::<STRIP>() {
                    for i in 0..STRIP {
                        lanes[i] = if row[i] > lanes[i] { row[i] } else { lanes[i] };
                    }
                } else {
                    for (lane, x) in lanes.iter_mut().zip(row) {
                        *lane = if *x > *lane { *x } else { *lane };
                    }
                }
            }
            top.copy_from_slice(&lanes[..top.len()]);
        }
    }
}

wide! {
    /// `scores_ji = 2^(scores_ji - top_i)`, then `sum_i += scores_ji`, for all keys j.
    fn weigh(scores: &mut [f32], top: &[f32], sum: &mut [f32]) {
        let rows = top.len();
        for (at, (top, sum)) in top.chunks(STRIP).zip(sum.chunks_mut(STRIP)).enumerate() {
            let mut tops = [0.0; STRIP];
            tops[..top.len()].copy_from_slice(top);
            let mut sums = [0.0; STRIP];
            for row in scores.chunks_exact_mut(rows) {
                let row = &mut row[at * STRIP..];
                if let Some(row) = row.first_chunk_mut::<STRIP>() {
                    for i in 0..STRIP {
                        row[i] = exp2(row[i] - tops[i]);
                        sums[i] += row[i];
                    }
                } else {
                    for (i, x) in row.iter_mut().enumerate() {
                        *x = exp2(*x - tops[i]);
                        sums[i] += *x;
                    }
                }
            }
            sum.iter_mut().zip(sums).for_each(|(sum, own)| *sum += own);
        }
    }
}

/// `2^x` for `x <= 0`, with an error of at most 1 ulp. It has no branches, so that a loop over it is vectorised. The
/// result is 0 below the range of normal numbers and for minus infinity, and NaN for NaN.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds x to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    // Interpolates 2^r on [-1/2, 1/2] at Chebyshev's nodes, relative error 5e-9.
    let mut p = 1.545_316_3e-4;
    for c in [1.339_086_3e-3, 9.618_083e-3, 5.550_357e-2, 0.240_226_5, std::f32::consts::LN_2] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    let y = (p * r + 1.0) * power;
    if x < -126.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_right_to_the_last_place() {
        for i in 0..4_000_000u32 {
            let x = -(i as f32) * (126.0 / 4e6);
            let (got, want) = (f64::from(exp2(x)), f64::from(x).exp2());
            assert!((got / want - 1.0).abs() < 1.2e-7, "2^{x}: {got}, expected {want}");
        }
        assert_eq!([exp2(f32::NEG_INFINITY), exp2(-3e38), exp2(-127.0), exp2(0.0)], [0.0, 0.0, 0.0, 1.0]);
        assert!(exp2(f32::NAN).is_nan());
    }
}
