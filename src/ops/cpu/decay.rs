//! What lets the state of a recurrence decay: factors of tokens, one a key head or one a row of the state.
//!
//! Only products of factors `e^g <= 1` are taken, of neighbouring tokens, never a difference of two sums of logarithms: so a
//! decay by e^-250 within a chunk, of none at all and of everything are as exact as any other. A factor near 1 is kept as
//! `e^g - 1`, as in `shaders/common/decay.wgsl`, which says why.

use std::ops::Range;

use super::recurrence::Head;
use super::{Mat, Source};

/// The log decays of a run.
pub(crate) struct Decay<'a> {
    /// `[B, G, N]`, or `[B, G, N, m]`.
    source: Option<Source<'a>>,
    /// Log decays of a token: none, one, or as many as the state has rows.
    width: usize,
}

/// Whether and how a token lets the state decay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Head,
    Row,
}

impl<'a> Decay<'a> {
    /// Log decays; `None`: the state does not decay.
    pub(crate) fn new(source: Option<Source<'a>>) -> Self {
        let width = source.as_ref().map_or(0, Source::dim);
        Self { source, width }
    }

    /// How many factors a token has, where a state has so many rows.
    pub(crate) fn kind(&self, per_row: bool) -> Kind {
        match &self.source {
            None => Kind::None,
            Some(_) if per_row => Kind::Row,
            Some(_) => Kind::Head,
        }
    }

    /// Factors of a token.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Factors of some tokens, `[tokens, width]`; adds up their logarithms, `[width]`.
    pub(crate) fn factors<'b>(
        &self,
        head: Head,
        tokens: Range<usize>,
        space: &'b mut [f32],
        all: &mut [f32],
    ) -> &'b [f32] {
        let rows = tokens.len();
        let space = &mut space[..2 * rows * self.width];
        let (factors, from) = space.split_at_mut(rows * self.width);
        all.fill(0.0);
        if let Some(source) = &self.source {
            let logs = source.tile(head.batch, head.head, tokens, from);
            for (i, row) in factors.chunks_exact_mut(self.width).enumerate() {
                kept_of(row, logs.row(i, self.width));
                super::add(all, logs.row(i, self.width));
            }
        }
        factors
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
pub(crate) fn kept(rows: usize, k: Mat<'_>, width: usize, factors: &[f32], out: &mut [f32], left: &mut [f32]) {
    left.fill(1.0);
    for i in (0..rows).rev() {
        let row = &mut out[i * width..][..width];
        row.copy_from_slice(k.row(i, width));
        apply(row, left);
        leave_each(left, &factors[i * left.len()..][..left.len()]);
    }
}

/// Multiplies scores below the diagonal by the decay between their tokens, where a token has one factor. `row` has room for
/// a row of them.
pub(crate) fn between(rows: usize, factors: &[f32], scores: &mut [f32], row: &mut [f32]) {
    for (i, scores) in scores.chunks_exact_mut(rows).take(rows).enumerate() {
        leave_all(&mut row[..i], factors[i]);
        row[i] = 1.0;
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
