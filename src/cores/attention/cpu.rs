//! The tiled attention core on the CPU, the counterpart of `shaders/cores/attention/attention.wgsl`. A block of queries
//! is compared with the keys that it sees, tile by tile, with a running sum of weights and, if weights are exponentials
//! of scores, a running maximum.

use crate::cpu::simd;
use crate::cpu::simd::wide;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use crate::cores::attention::{Extras, Mask, Seen, essential};
use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::threads::{each, scratch};
use crate::cpu::tiles::{Output, Source};
use crate::operator::pairs::Pairs;
use crate::operator::qkv::Qkv;
use crate::tensor::{DType, Layout, TensorMap, Values};

/// Queries per block and keys per tile. Measured at head dim 64, with products that packed the keys: half as many queries were
/// slower, twice as many of either gained at most 3%, and left fewer blocks for short sequences.
const QUERIES: usize = 128;
const KEYS: usize = 256;

/// Attention on host tensors.
pub(crate) struct Attend<'a> {
    /// Shapes. M is the length of `k` and `v` as given here.
    pub(crate) shape: Qkv,
    /// The rule by which a query sees keys.
    pub(crate) seen: Seen,
    /// Keys of each batch entry, where they are not all those of the tensor.
    pub(crate) lengths: Option<Vec<usize>>,
    /// How the product of a query and a key becomes a score.
    pub(crate) score: Score<'a>,
    /// How scores become weights.
    pub(crate) weights: Weights,
    /// What single pairs and complete rows have.
    pub(crate) beside: Beside<'a>,
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
    /// The same, s, held within a cap C: C tanh(s / C).
    Capped { scale: f32, cap: f32 },
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

/// What single pairs of a query and a key have, and what complete rows have; only for [`Weights::Softmax`].
#[derive(Default)]
pub(crate) struct Beside<'a> {
    /// Added to the scores. Minus infinity hides a pair.
    bias: Option<PairTensor<'a>>,
    /// 0 hides a pair.
    mask: Option<PairTensor<'a>>,
    /// A score for each query head that joins the sum of every row.
    sink: Option<&'a [f32]>,
    /// Takes the logarithm of the sum of every row, `[B, H, N, 1]`.
    lse: Option<Output>,
}

/// A tensor `[1|B, 1|H, N, M]`.
struct PairTensor<'a> {
    values: &'a Values,
    /// Elements from one batch entry, head and query to the next.
    strides: [usize; 3],
}

impl<'a> PairTensor<'a> {
    fn new(tensors: &'a TensorMap, name: &str, s: &Qkv, pairs: Option<Pairs>) -> Option<Self> {
        let [batch, head, token, _] = pairs?.strides(s, s.keys).map(|stride| stride as usize);
        Some(Self { values: tensors.get(name)?.values(), strides: [batch, head, token] })
    }

    /// The elements of these keys.
    fn at(&self, [batch, head, query]: [usize; 3], keys: &Range<usize>) -> Range<usize> {
        let start = batch * self.strides[0] + head * self.strides[1] + query * self.strides[2] + keys.start;
        start..start + keys.len()
    }

    /// Copies the numbers of these keys.
    fn numbers(&self, row: [usize; 3], keys: &Range<usize>, to: &mut [f32]) {
        match self.values {
            Values::F32(x) => to.copy_from_slice(&x[self.at(row, keys)]),
            Values::F16(x) => x[self.at(row, keys)].convert_to_f32_slice(to),
            Values::I64(_) | Values::I32(_) | Values::U32(_) | Values::U8(_) => unreachable!("a bias is f32 or f16"),
        }
    }

    fn flags(&self, row: [usize; 3], keys: &Range<usize>) -> &[u8] {
        match self.values {
            Values::U8(x) => &x[self.at(row, keys)],
            _ => unreachable!("a mask is u8"),
        }
    }
}

impl Beside<'_> {
    /// Adds the bias to the scores of these queries and keys, times `factor`, and gives hidden pairs a score of minus infinity.
    /// A row of `scores` has one key and all queries.
    fn add(
        &self,
        [batch, head]: [usize; 2],
        queries: Range<usize>,
        keys: Range<usize>,
        factor: f32,
        scores: &mut [f32],
    ) {
        let rows = queries.len();
        for (some, scores) in keys.clone().step_by(BLOCK).zip(scores.chunks_mut(BLOCK * rows)) {
            let some = some..(some + BLOCK).min(keys.end);
            for first in (0..rows).step_by(BLOCK) {
                let mut block = [[0.0; BLOCK]; BLOCK];
                for (numbers, query) in block.iter_mut().zip(queries.clone().skip(first)) {
                    let (row, numbers) = ([batch, head, query], &mut numbers[..some.len()]);
                    if let Some(bias) = &self.bias {
                        bias.numbers(row, &some, numbers);
                    }
                    if let Some(mask) = &self.mask {
                        let shown = mask.flags(row, &some);
                        numbers
                            .iter_mut()
                            .zip(shown)
                            .for_each(|(x, shown)| *x = if *shown == 0 { f32::NEG_INFINITY } else { *x });
                    }
                }
                add_block(&mut scores[first..], rows, (rows - first).min(BLOCK), &block, factor);
            }
        }
    }

    /// Adds the sink of a head to the sums, whose maxima are those of powers of two. `shrink` becomes the factor of the outputs.
    fn add_sink(&self, head: usize, top: &mut [f32], sum: &mut [f32], shrink: &mut [f32]) {
        let Some(sinks) = self.sink else { return shrink.fill(1.0) };
        let sink = sinks[head] * std::f32::consts::LOG2_E;
        for ((top, sum), shrink) in top.iter_mut().zip(sum).zip(shrink) {
            let largest = top.max(sink);
            *shrink = exp2::<false>(*top - largest);
            *sum = *sum * *shrink + exp2::<false>(sink - largest);
            *top = largest;
        }
    }

    /// Stores the logarithms of the sums of these queries.
    fn store_lse(&self, [batch, head]: [usize; 2], queries: Range<usize>, top: &[f32], sum: &[f32]) {
        let Some(lse) = &self.lse else { return };
        let mut logs = [0.0; QUERIES];
        for ((log, top), sum) in logs.iter_mut().zip(top).zip(sum) {
            let log2 = f64::from(*top) + f64::from(*sum).log2();
            *log = if *sum == 0.0 { f32::NEG_INFINITY } else { (log2 * std::f64::consts::LN_2) as f32 };
        }
        // SAFETY: blocks do not overlap, and each is visited once.
        unsafe { lse.store(batch, head, queries, &mut logs, &[1.0; QUERIES]) };
    }
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

/// Attention over q, k and v of `tensors` as they are, and what else there is of [`Extras`]; returns the outputs.
pub(crate) fn run(
    shape: Qkv,
    mask: Mask,
    extras: &Extras,
    score: Score<'_>,
    weights: Weights,
    tensors: &TensorMap,
) -> TensorMap {
    let lengths = extras.key_counts(&shape, tensors);
    let seen = Seen { mask, borders: extras.borders(tensors) };
    let beside = Beside {
        bias: PairTensor::new(tensors, "bias", &shape, extras.bias),
        mask: PairTensor::new(tensors, "mask", &shape, extras.mask),
        sink: tensors.get("sink").filter(|_| extras.sink).and_then(|sink| match sink.values() {
            Values::F32(sinks) => Some(&sinks[..]),
            _ => None,
        }),
        lse: extras.lse.then(|| Output::new(DType::F32, Layout::Bhnd, [shape.batch, shape.heads, shape.queries, 1])),
    };
    let [q, k, v] = ["q", "k", "v"].map(|name| {
        let tensor = tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        Source::new(tensor, shape.layout, None)
    });
    let o = Output::new(shape.dtype, shape.layout, [shape.batch, shape.heads, shape.queries, shape.dim_v]);
    let attend = Attend { shape, seen, lengths, score, weights, beside, q, k, v };
    attend.run(&o);
    let lse = attend.beside.lse.map(Output::finish);
    let lse = lse.map(|lse| ("lse".to_owned(), lse.reshape([shape.batch, shape.heads, shape.queries])));
    [("o".to_owned(), o.finish())].into_iter().chain(lse).collect()
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
        each(heads * blocks, essential(s, self.seen.mask).flops as u64, |task| {
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
        let seen = self.seen.keys(&shape, queries.start).start..self.seen.keys(&shape, queries.end - 1).end;
        let tile = KEYS.min(seen.len());
        let space = (rows * dim_k.max(dim_v)).max(tile * dim_k.max(dim_v));
        let sizes = [rows * dim_k, space, space, tile * rows, rows * dim_v, rows, rows, rows, rows, tile];
        scratch(sizes, |[q, space, v_space, scores, out, top, shrink, sum, q_squares, k_squares]| {
            // Exponentials are computed as powers of two: e^x = 2^(x log2 e).
            let base = if self.weights == Weights::Softmax { std::f32::consts::LOG2_E } else { 1.0 };
            let scale = match self.score {
                Score::Scaled(scale) => scale * base,
                Score::Capped { scale, cap } => scale / cap,
                Score::Map(_) => 1.0,
            };
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
                // A single query uses each key once: a product would read the keys a number at a time.
                if rows == 1 {
                    scores.iter_mut().take(width).enumerate().for_each(|(j, s)| *s = simd::dot(q, k.row(j, dim_k)));
                } else {
                    product([width, dim_k, rows], k, Mat::rows(q, rows), Onto::Nothing, scores, rows);
                }
                // The range of queries of this block that see key j.
                let seers = |j: usize| {
                    let all = self.seen.queries(&shape, keys.start + j);
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
                if let Score::Capped { cap, .. } = self.score {
                    hold(scores, cap * base);
                }
                if self.beside.bias.is_some() || self.beside.mask.is_some() {
                    self.beside.add([batch, head], queries.clone(), keys.clone(), base, scores);
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
                    shrink.iter_mut().zip(&*top).for_each(|(old, new)| *old = exp2::<false>(*old - new));
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
            if self.weights == Weights::Softmax {
                self.beside.add_sink(head, top, sum, shrink);
                self.beside.store_lse([batch, head], queries.clone(), top, sum);
            } else {
                shrink.fill(1.0);
            }
            // A query without any weight, for example one that sees no key, gives zeros.
            let more = if let Weights::Plain(more) = self.weights { more } else { 0.0 };
            for (sum, shrink) in sum.iter_mut().zip(&*shrink) {
                *sum = *shrink / if *sum + more == 0.0 { 1.0 } else { *sum + more };
            }
            for (i, row) in space.chunks_exact_mut(dim_v).take(rows).enumerate() {
                row.iter_mut().zip(out[i..].iter().step_by(rows)).for_each(|(x, out)| *x = *out);
            }
            // SAFETY: blocks do not overlap, and each is visited once.
            unsafe { o.store(batch, head, queries.clone(), space, sum) };
        });
    }
}

/// A lower bias that is finite counts as this: in units of log 2 it stays above the score of a hidden pair.
const LEAST_BIAS: f32 = -2.3e38;

/// Queries and keys whose biases are turned at a time.
const BLOCK: usize = 8;

wide! {
    /// Adds `factor` times a block with a row for each query to scores with a row for each key. The block may have more queries
    /// and keys than there are scores. A pair whose number is minus infinity gets that as its score, whatever it was.
    fn add_block(scores: &mut [f32], rows: usize, queries: usize, block: &[[f32; BLOCK]; BLOCK], factor: f32) {
        for (j, row) in scores.chunks_mut(rows).enumerate() {
            let add = |score: &mut f32, x: f32| {
                let least = if x > LEAST_BIAS { x } else { LEAST_BIAS };
                *score = if x == f32::NEG_INFINITY { x } else { *score + least * factor };
            };
            if let Some(row) = row.first_chunk_mut::<BLOCK>().filter(|_| queries == BLOCK) {
                for i in 0..BLOCK {
                    add(&mut row[i], block[i][j]);
                }
            } else {
                row.iter_mut().take(queries).zip(block).for_each(|(score, numbers)| add(score, numbers[j]));
            }
        }
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
    fn weigh<FUSED>(scores: &mut [f32], top: &[f32], sum: &mut [f32]) {
        let rows = top.len();
        for (at, (top, sum)) in top.chunks(STRIP).zip(sum.chunks_mut(STRIP)).enumerate() {
            let mut tops = [0.0; STRIP];
            tops[..top.len()].copy_from_slice(top);
            let mut sums = [0.0; STRIP];
            for row in scores.chunks_exact_mut(rows) {
                let row = &mut row[at * STRIP..];
                if let Some(row) = row.first_chunk_mut::<STRIP>() {
                    for i in 0..STRIP {
                        row[i] = exp2::<FUSED>(row[i] - tops[i]);
                        sums[i] += row[i];
                    }
                } else {
                    for (i, x) in row.iter_mut().enumerate() {
                        *x = exp2::<FUSED>(*x - tops[i]);
                        sums[i] += *x;
                    }
                }
            }
            sum.iter_mut().zip(sums).for_each(|(sum, own)| *sum += own);
        }
    }
}

wide! {
    /// Replaces every x by `cap tanh(x)`.
    fn hold<FUSED>(scores: &mut [f32], cap: f32) {
        for x in scores.iter_mut() {
            *x = cap * tanh::<FUSED>(*x);
        }
    }
}

/// `tanh x` for any x, within a few units in the last place, without branches.
#[inline(always)]
fn tanh<const FUSED: bool>(x: f32) -> f32 {
    // NaN stays what it is.
    let size = if x.abs() > 20.0 { 20.0 } else { x.abs() };
    // Near 0: a polynomial for (tanh x - x) / x^3 (Cephes, tanhf).
    let z = size * size;
    let mut p = -5.704_988_7e-3;
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = simd::multiply_add::<FUSED>(p, z, c);
    }
    let e = exp2::<FUSED>(-2.0 * std::f32::consts::LOG2_E * size);
    let y = if size < 0.625 { size + size * z * p } else { (1.0 - e) / (1.0 + e) };
    y.copysign(x)
}

/// `2^x` for `x <= 0`, with an error of at most 1 ulp. It has no branches, so that a loop over it is vectorised. The
/// result is 0 below the range of normal numbers and for minus infinity, and NaN for NaN.
#[inline(always)]
fn exp2<const FUSED: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds x to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    // Interpolates 2^r on [-1/2, 1/2] at Chebyshev's nodes, relative error 5e-9.
    let mut p = 1.545_316_3e-4;
    for c in [1.339_086_3e-3, 9.618_083e-3, 5.550_357e-2, 0.240_226_5, std::f32::consts::LN_2] {
        p = simd::multiply_add::<FUSED>(p, r, c);
    }
    // The exponent of y is that of a number near 1; what x was rounded to is added to it.
    let y = simd::multiply_add::<FUSED>(p, r, 1.0);
    let y = f32::from_bits(y.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < -126.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyperbolic_tangents_are_right_to_the_last_places() {
        check_tanh(tanh::<false>);
        check_tanh(tanh::<true>);
    }

    fn check_tanh(tanh: fn(f32) -> f32) {
        for i in -2_000_000..2_000_000i32 {
            let x = i as f32 * 1.1e-5;
            let (got, want) = (f64::from(tanh(x)), f64::from(x).tanh());
            assert!((got - want).abs() <= 2e-7 * want.abs(), "tanh {x}: {got}, expected {want}");
        }
        assert_eq!([tanh(3e38), tanh(f32::NEG_INFINITY), tanh(0.0)], [1.0, -1.0, 0.0]);
        assert!(tanh(f32::NAN).is_nan() && tanh(1e-30) == 1e-30);
    }

    #[test]
    fn powers_of_two_are_right_to_the_last_place() {
        check_exp2(exp2::<false>);
        check_exp2(exp2::<true>);
    }

    fn check_exp2(exp2: fn(f32) -> f32) {
        for i in 0..4_000_000u32 {
            let x = -(i as f32) * (126.0 / 4e6);
            let (got, want) = (f64::from(exp2(x)), f64::from(x).exp2());
            assert!((got / want - 1.0).abs() < 1.2e-7, "2^{x}: {got}, expected {want}");
        }
        assert_eq!([exp2(f32::NEG_INFINITY), exp2(-3e38), exp2(-127.0), exp2(0.0)], [0.0, 0.0, 0.0, 1.0]);
        assert!(exp2(f32::NAN).is_nan());
    }
}
