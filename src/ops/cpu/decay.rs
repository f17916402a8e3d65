//! What lets the state of a recurrence decay: factors of tokens, one a key head or one a row of the state.
//!
//! Only products of factors `e^g <= 1` are taken, of neighbouring tokens, never a difference of two sums of logarithms: so a
//! decay by e^-250 within a chunk, of none at all and of everything are as exact as any other. A factor near 1 is kept as
//! `e^g - 1`, as in `shaders/common/decay.wgsl`, which says why.

use std::ops::Range;

use super::recurrence::Head;
use super::{Mat, Source};

/// What makes factors.
pub(crate) enum Decay<'a> {
    /// The state does not decay.
    None,
    /// Log decays, one a key head: `[B, G, N]`.
    Head(Source<'a>),
    /// Log decays, one a row of the state: `[B, G, N, m]`.
    Row(Source<'a>),
    /// Steps of a state space.
    Steps(Steps<'a>),
}

/// Steps of time: of each a share `e^(step a)` of the state is left, and what is written is multiplied by the step.
pub(crate) struct Steps<'a> {
    /// `[B, N, H]`.
    pub(crate) dt: Source<'a>,
    /// `[H]`.
    pub(crate) a: Vec<f32>,
    /// `[H]`, added to dt.
    pub(crate) bias: Vec<f32>,
    /// Whether they go through softplus.
    pub(crate) softplus: bool,
}

/// Room for what the tokens of a chunk do to the state.
pub(crate) struct Space<'b> {
    /// `[2, tokens, width]`.
    pub(crate) factors: &'b mut [f32],
    /// `[width]`.
    pub(crate) logs: &'b mut [f32],
    /// `[tokens]`.
    pub(crate) scales: &'b mut [f32],
}

/// What they do.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'b> {
    /// Factors, `[tokens, width]`.
    pub(crate) factors: &'b [f32],
    /// The sums of their logarithms, `[width]`.
    pub(crate) logs: &'b [f32],
    /// What each token's keys are multiplied by; empty: by nothing.
    pub(crate) scales: &'b [f32],
    /// The level after each token; empty: the state has none.
    pub(crate) levels: &'b [f32],
}

/// A level below all others, of a state that holds nothing yet.
pub(crate) const NOTHING: f32 = -1e30;

/// The level of a state which falls by a log decay, or of what is written where that is higher.
pub(crate) fn risen(level: f32, log: f32, top: f32) -> f32 {
    (level + log).max(NOTHING).max(top)
}

impl Decay<'_> {
    /// Factors of a token, where a state has so many rows.
    pub(crate) fn width(&self, rows: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Head(_) | Self::Steps(_) => 1,
            Self::Row(_) => rows,
        }
    }

    /// Of some tokens of a head.
    pub(crate) fn chunk<'b>(&self, head: Head, tokens: Range<usize>, space: Space<'b>) -> Chunk<'b> {
        let Space { factors, logs: all, scales } = space;
        let (rows, width) = (tokens.len(), all.len());
        let (factors, from) = factors.split_at_mut(factors.len() / 2);
        let factors = &mut factors[..rows * width];
        all.fill(0.0);
        match self {
            Self::None => return Chunk { factors, logs: all, scales: &[], levels: &[] },
            Self::Head(source) | Self::Row(source) => {
                let logs = source.tile(head.batch, head.head, tokens, from);
                for (i, row) in factors.chunks_exact_mut(width).enumerate() {
                    kept_of(row, logs.row(i, width));
                    super::add(all, logs.row(i, width));
                }
            }
            Self::Steps(steps) => {
                let (a, bias) = (steps.a[head.head], steps.bias[head.head]);
                let dt = steps.dt.tile(head.batch, head.head, tokens, from);
                scales[..rows].iter_mut().enumerate().for_each(|(i, scale)| *scale = dt.row(i, 1)[0] + bias);
                if steps.softplus {
                    super::channels::softplus(&mut scales[..rows]);
                }
                for (factor, scale) in factors.iter_mut().zip(&scales[..rows]) {
                    kept_of(std::slice::from_mut(factor), &[*scale * a]);
                    all[0] += *scale * a;
                }
                return Chunk { factors, logs: all, scales: &scales[..rows], levels: &[] };
            }
        }
        Chunk { factors, logs: all, scales: &[], levels: &[] }
    }

    /// Of some tokens of a head whose state is kept relative to `level`, as `shaders/linear/softmax_features.wgsl` says; that
    /// becomes the one after them. `top(i)` is what the i-th token's features are relative to. Log decays are none or one a key
    /// head; their sum is that of the tokens alone, without what the level has risen.
    pub(crate) fn relative<'b>(
        &self,
        head: Head,
        tokens: Range<usize>,
        top: impl Fn(usize) -> f32,
        level: &mut f32,
        space: Space<'b>,
    ) -> Chunk<'b> {
        let Space { factors, logs: all, scales } = space;
        let rows = tokens.len();
        let (factors, from) = factors.split_at_mut(factors.len() / 2);
        let (scales, levels) = scales.split_at_mut(scales.len() / 2);
        let logs = match self {
            Self::Head(source) => Some(source.tile(head.batch, head.head, tokens, from)),
            _ => None,
        };
        all.fill(0.0);
        for i in 0..rows {
            let log = logs.map_or(0.0, |logs| logs.row(i, 1)[0]);
            let next = risen(*level, log, top(i));
            kept_of(&mut factors[i..=i], &[(*level - next) + log]);
            scales[i] = super::exp_signed(top(i) - next);
            (levels[i], *level) = (next, next);
            all[0] += log;
        }
        Chunk { factors: &factors[..rows], logs: all, scales: &scales[..rows], levels: &levels[..rows] }
    }
}

wide! {
    /// Factors of log decays: down to -1/2 as `e^g - 1`, of nothing left as -1, else as they are.
    fn kept_of(out: &mut [f32], logs: &[f32]) {
        for (out, &g) in out.iter_mut().zip(logs) {
            let mut few = 1.0;
            for part in [1.0 / 8.0, 1.0 / 7.0, 1.0 / 6.0, 1.0 / 5.0, 1.0 / 4.0, 1.0 / 3.0, 1.0 / 2.0] {
                few = 1.0 + g * part * few;
            }
            let far = if g < -87.0 { -1.0 } else { super::exp_signed(g) };
            *out = if g <= 0.0 && g > -0.5 { g * few } else { far };
        }
    }
}

wide! {
    /// What all of `x` leave, each its own.
    fn leave_each(x: &mut [f32], kept: &[f32]) {
        for (x, &kept) in x.iter_mut().zip(kept) {
            *x = *x * kept + if kept <= 0.0 { *x } else { 0.0 };
        }
    }
}

wide! {
    /// What all of `x` leave of one factor.
    fn leave_all(x: &mut [f32], kept: f32) {
        if kept <= 0.0 {
            x.iter_mut().for_each(|x| *x += *x * kept);
        } else {
            x.iter_mut().for_each(|x| *x *= kept);
        }
    }
}

/// What the rows of a state, `dim` wide, leave, all of one log decay or each of its own.
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

/// Multiplies a row of features by one factor or each by its own.
fn apply(row: &mut [f32], left: &[f32]) {
    match left {
        [one] => super::scale(row, *one),
        each => super::multiply(row, each),
    }
}

/// Features of keys, each with the decay of the tokens behind it in the chunk: what the state keeps of them at its end.
pub(crate) fn kept(rows: usize, k: Mat<'_>, width: usize, chunk: Chunk<'_>, out: &mut [f32], left: &mut [f32]) {
    left.fill(1.0);
    for i in (0..rows).rev() {
        let row = &mut out[i * width..][..width];
        row.copy_from_slice(k.row(i, width));
        apply(row, left);
        if let Some(scale) = chunk.scales.get(i) {
            super::scale(row, *scale);
        }
        leave_each(left, &chunk.factors[i * left.len()..][..left.len()]);
    }
}

/// Multiplies scores below the diagonal by the decay between their tokens, where a token has one factor. `row` has room for
/// a row of them.
pub(crate) fn between(rows: usize, chunk: Chunk<'_>, scores: &mut [f32], row: &mut [f32]) {
    for (i, scores) in scores.chunks_exact_mut(rows).take(rows).enumerate() {
        leave_all(&mut row[..i], chunk.factors[i]);
        row[i] = chunk.scales.get(i).copied().unwrap_or(1.0);
        super::multiply(&mut scores[..=i], &row[..=i]);
    }
}

/// Scores on and below the diagonal where each row of the state decays by its own factors; zeros above. `space` has room for
/// the keys.
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
            *score = if j <= i { super::dot(q.row(i, width), key) } else { 0.0 };
        }
    }
}

/// Features of queries, each with the decay of the tokens up to it: what it reads of the state before the chunk.
pub(crate) fn reached(rows: usize, q: Mat<'_>, width: usize, factors: &[f32], out: &mut [f32], left: &mut [f32]) {
    left.fill(1.0);
    for i in 0..rows {
        leave_each(left, &factors[i * left.len()..][..left.len()]);
        let row = &mut out[i * width..][..width];
        row.copy_from_slice(q.row(i, width));
        apply(row, left);
    }
}
