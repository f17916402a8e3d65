//! The decay of the state of a recurrence on the CPU. Each token has one decay factor per key head, or one per row of
//! the state.
//!
//! DecayKind are always products of the factors `e^g <= 1` of consecutive tokens, never differences of two sums of
//! logarithms. A decay by e^-250 within a chunk, no decay, and a complete decay are therefore as exact as any other. A
//! factor near 1 is stored as `e^g - 1`, as in `shaders/cores/recurrence/decay.wgsl`: rounded to a number next to 1,
//! thousands of factors would all have the same error.

use crate::cpu::simd;
use crate::cpu::simd::wide;
use crate::operator::steps;
use std::ops::Range;

use crate::cores::recurrence::cpu::Head;
use crate::cpu::matrix::Mat;
use crate::cpu::tiles::Source;

/// The source of the decay factors.
pub(crate) enum Decay<'a> {
    /// The state does not decay.
    None,
    /// Log decays per key head: `[B, G, N]`.
    Head(Source<'a>),
    /// Log decays per row of the state: `[B, G, N, m]`.
    Row(Source<'a>),
    /// Time steps of a state space model.
    Steps(Steps<'a>),
}

/// Time steps. A step leaves the share `e^(step a)` of the state, and multiplies what is written by the step.
pub(crate) struct Steps<'a> {
    /// `[B, N, H]`.
    pub(crate) dt: Source<'a>,
    /// `[H]`.
    pub(crate) a: Vec<f32>,
    /// `[H]`, added to dt.
    pub(crate) bias: Vec<f32>,
    /// How a step follows from dt and bias.
    pub(crate) rule: steps::Steps,
}

/// Buffers for the decay of a chunk.
pub(crate) struct Space<'b> {
    /// `[2, tokens, width]`: the factors, then room for loaded log decays.
    pub(crate) factors: &'b mut [f32],
    /// `[width]`: the sums of the log decays.
    pub(crate) logs: &'b mut [f32],
    /// `[2, tokens]`: the scales of the keys, then the running maxima.
    pub(crate) scales: &'b mut [f32],
}

/// The decay of the tokens of a chunk.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'b> {
    /// Factors as `kept_of` stores them, `[tokens, width]`.
    pub(crate) factors: &'b [f32],
    /// Sums of their logarithms, `[width]`.
    pub(crate) logs: &'b [f32],
    /// Factor for the keys of each token; empty if there is none.
    pub(crate) scales: &'b [f32],
    /// The running maximum after each token; empty if the state has no running maximum.
    pub(crate) running_maxes: &'b [f32],
}

/// The running maximum of an empty state. It is below all others.
pub(crate) const NOTHING: f32 = -1e30;

/// The new running maximum of a state: the old running maximum plus its log decay, or the maximum `top` of what is
/// written, if that is higher.
pub(crate) fn risen(running_max: f32, log: f32, top: f32) -> f32 {
    (running_max + log).max(NOTHING).max(top)
}

impl Decay<'_> {
    /// Number of factors per token, for a state with `rows` rows.
    pub(crate) fn width(&self, rows: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Head(_) | Self::Steps(_) => 1,
            Self::Row(_) => rows,
        }
    }

    /// The decay of some tokens of a head.
    pub(crate) fn chunk<'b>(&self, head: Head, tokens: Range<usize>, space: Space<'b>) -> Chunk<'b> {
        let Space { factors, logs: all, scales } = space;
        let (rows, width) = (tokens.len(), all.len());
        let (factors, from) = factors.split_at_mut(factors.len() / 2);
        let factors = &mut factors[..rows * width];
        all.fill(0.0);
        match self {
            Self::None => return Chunk { factors, logs: all, scales: &[], running_maxes: &[] },
            Self::Head(source) | Self::Row(source) => {
                let logs = source.tile(head.batch, head.head, tokens, from);
                for (i, row) in factors.chunks_exact_mut(width).enumerate() {
                    kept_of(row, logs.row(i, width));
                    simd::add(all, logs.row(i, width));
                }
            }
            Self::Steps(steps) => {
                let (a, bias) = (steps.a[head.head], steps.bias[head.head]);
                let dt = steps.dt.tile(head.batch, head.head, tokens, from);
                scales[..rows].iter_mut().enumerate().for_each(|(i, scale)| *scale = dt.row(i, 1)[0] + bias);
                steps.rule.apply(&mut scales[..rows]);
                for (factor, scale) in factors.iter_mut().zip(&scales[..rows]) {
                    kept_of(std::slice::from_mut(factor), &[*scale * a]);
                    all[0] += *scale * a;
                }
                return Chunk { factors, logs: all, scales: &scales[..rows], running_maxes: &[] };
            }
        }
        Chunk { factors, logs: all, scales: &[], running_maxes: &[] }
    }

    /// The decay of some tokens of a head whose state is stored relative to `running_max`;
    /// `shaders/linear/favor_features.wgsl` explains this. `running_max` becomes the one after these tokens. `top(i)` is the
    /// exponent that the features of the i-th token are relative to. There must be no log decays, or one per key head.
    /// The sum in `logs` contains only the log decays of the tokens, not the rise of the running maximum.
    pub(crate) fn relative<'b>(
        &self,
        head: Head,
        tokens: Range<usize>,
        top: impl Fn(usize) -> f32,
        running_max: &mut f32,
        space: Space<'b>,
    ) -> Chunk<'b> {
        let Space { factors, logs: all, scales } = space;
        let rows = tokens.len();
        let (factors, from) = factors.split_at_mut(factors.len() / 2);
        let (scales, running_maxes) = scales.split_at_mut(scales.len() / 2);
        let logs = match self {
            Self::Head(source) => Some(source.tile(head.batch, head.head, tokens, from)),
            _ => None,
        };
        all.fill(0.0);
        for i in 0..rows {
            let log = logs.map_or(0.0, |logs| logs.row(i, 1)[0]);
            let next = risen(*running_max, log, top(i));
            kept_of(&mut factors[i..=i], &[(*running_max - next) + log]);
            scales[i] = simd::exp_signed::<false>(top(i) - next);
            (running_maxes[i], *running_max) = (next, next);
            all[0] += log;
        }
        Chunk { factors: &factors[..rows], logs: all, scales: &scales[..rows], running_maxes: &running_maxes[..rows] }
    }
}

wide! {
    /// Converts log decays g to factors: `e^g - 1` for -1/2 < g <= 0, -1 for g < -87 (nothing remains), otherwise
    /// `e^g`.
    fn kept_of<FUSED>(out: &mut [f32], logs: &[f32]) {
        for (out, &g) in out.iter_mut().zip(logs) {
            let mut few = 1.0;
            for part in [1.0 / 8.0, 1.0 / 7.0, 1.0 / 6.0, 1.0 / 5.0, 1.0 / 4.0, 1.0 / 3.0, 1.0 / 2.0] {
                few = simd::multiply_add::<FUSED>(g * part, few, 1.0);
            }
            let far = if g < -87.0 { -1.0 } else { simd::exp_signed::<FUSED>(g) };
            *out = if g <= 0.0 && g > -0.5 { g * few } else { far };
        }
    }
}

wide! {
    /// Multiplies each element of `x` by its own factor, stored as by `kept_of`.
    fn leave_each(x: &mut [f32], kept: &[f32]) {
        for (x, &kept) in x.iter_mut().zip(kept) {
            *x = *x * kept + if kept <= 0.0 { *x } else { 0.0 };
        }
    }
}

wide! {
    /// Multiplies all of `x` by one factor, stored as by `kept_of`.
    fn leave_all(x: &mut [f32], kept: f32) {
        if kept <= 0.0 {
            x.iter_mut().for_each(|x| *x += *x * kept);
        } else {
            x.iter_mut().for_each(|x| *x *= kept);
        }
    }
}

/// The factor of a row, stored as by `kept_of`: one for all rows, one for each, or none.
#[inline(always)]
fn factor_of(kept: &[f32], row: usize) -> f32 {
    match kept {
        [] => 0.0,
        [one] => *one,
        each => each[row],
    }
}

/// The share of a row of the state that remains after a token.
pub(crate) fn left_of(kept: &[f32], row: usize) -> f32 {
    let kept = factor_of(kept, row);
    if kept <= 0.0 { 1.0 + kept } else { kept }
}

wide! {
    /// One token: `row d = row d * decay d + k_d v`, then `out = q state`. `kept` is as [`factor_of`] takes it.
    pub(crate) fn advance<FUSED>(state: &mut [f32], kept: &[f32], k: &[f32], v: &[f32], q: &[f32], out: &mut [f32]) {
        let width = v.len();
        // A row becomes `x * whole + x * kept`.
        let factors = |d: usize| {
            let kept = factor_of(kept, d);
            [if kept <= 0.0 { 1.0 } else { 0.0 }, kept, k[d], q[d]]
        };
        let next = |x: f32, v: f32, [whole, kept, k, _]: [f32; 4]| {
            simd::multiply_add::<FUSED>(k, v, simd::multiply_add::<FUSED>(x, kept, x * whole))
        };
        out.fill(0.0);
        // Two rows at a time, so that the sums are loaded and stored once for both.
        let mut pairs = state.chunks_exact_mut(2 * width);
        for (at, pair) in pairs.by_ref().enumerate() {
            let (a, b) = pair.split_at_mut(width);
            let of = [factors(2 * at), factors(2 * at + 1)];
            for i in 0..width {
                let [x, y] = [next(a[i], v[i], of[0]), next(b[i], v[i], of[1])];
                (a[i], b[i]) = (x, y);
                out[i] = simd::multiply_add::<FUSED>(of[1][3], y, simd::multiply_add::<FUSED>(of[0][3], x, out[i]));
            }
        }
        let last = pairs.into_remainder();
        if !last.is_empty() {
            let of = factors(k.len() - 1);
            for i in 0..width {
                last[i] = next(last[i], v[i], of);
                out[i] = simd::multiply_add::<FUSED>(of[3], last[i], out[i]);
            }
        }
    }
}

/// One token: `x = x * decay + y`, element by element. `kept` has a factor for all elements, one for each, or none.
pub(crate) fn advance_each(x: &mut [f32], kept: &[f32], y: &[f32]) {
    match kept {
        [] => {}
        [one] => leave_all(x, *one),
        each => leave_each(x, each),
    }
    simd::add(x, y);
}

/// DecayKind the rows of a state, each of width `dim`, by one log decay for all rows or by one per row.
pub(crate) fn leave_rows(state: &mut [f32], dim: usize, logs: &[f32]) {
    let kept = |log: f32| {
        let mut kept = [0.0];
        kept_of(&mut kept, &[log]);
        kept[0]
    };
    match logs {
        [] => {}
        [one] => leave_all(state, kept(*one)),
        each => state.chunks_exact_mut(dim).zip(each).for_each(|(row, log)| leave_all(row, kept(*log))),
    }
}

/// Multiplies a row of features by one factor, or each feature by its own.
fn apply(row: &mut [f32], left: &[f32]) {
    match left {
        [one] => simd::scale(row, *one),
        each => simd::multiply(row, each),
    }
}

/// Features of keys, each multiplied by its scale and by the decay of all later tokens of the chunk. The state at the
/// end of the chunk contains them in this form.
pub(crate) fn kept(rows: usize, k: Mat<'_>, width: usize, chunk: Chunk<'_>, out: &mut [f32], left: &mut [f32]) {
    left.fill(1.0);
    for i in (0..rows).rev() {
        let row = &mut out[i * width..][..width];
        row.copy_from_slice(k.row(i, width));
        apply(row, left);
        if let Some(scale) = chunk.scales.get(i) {
            simd::scale(row, *scale);
        }
        leave_each(left, &chunk.factors[i * left.len()..][..left.len()]);
    }
}

/// Multiplies scores on and below the diagonal by the decay between their tokens and by the scale of the key, for one
/// factor per token. `row` is a buffer for one row of scores.
pub(crate) fn between(rows: usize, chunk: Chunk<'_>, scores: &mut [f32], row: &mut [f32]) {
    for (i, scores) in scores.chunks_exact_mut(rows).take(rows).enumerate() {
        leave_all(&mut row[..i], chunk.factors[i]);
        row[i] = chunk.scales.get(i).copied().unwrap_or(1.0);
        simd::multiply(&mut scores[..=i], &row[..=i]);
    }
}

/// Computes scores on and below the diagonal if each row of the state has its own factor, and zeros above. `space` is a
/// buffer for the keys.
pub(crate) fn scores(
    rows: usize,
    width: usize,
    (q, k): (Mat<'_>, Mat<'_>),
    factors: &[f32],
    scores: &mut [f32],
    space: &mut [f32],
) {
    for (i, scores) in scores.chunks_exact_mut(rows).take(rows).enumerate() {
        let factors = &factors[i * width..][..width];
        space[i * width..][..width].copy_from_slice(k.row(i, width));
        for (j, score) in scores.iter_mut().enumerate() {
            let key = &mut space[j * width..][..width];
            if j < i {
                leave_each(key, factors);
            }
            *score = if j <= i { simd::dot(q.row(i, width), key) } else { 0.0 };
        }
    }
}

/// Features of queries, each multiplied by the decay of all tokens of the chunk up to its own. In this form they read
/// the state before the chunk.
pub(crate) fn reached(rows: usize, q: Mat<'_>, width: usize, factors: &[f32], out: &mut [f32], left: &mut [f32]) {
    left.fill(1.0);
    for i in 0..rows {
        leave_each(left, &factors[i * left.len()..][..left.len()]);
        let row = &mut out[i * width..][..width];
        row.copy_from_slice(q.row(i, width));
        apply(row, left);
    }
}
