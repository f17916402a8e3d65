//! Maps for the square of the kernel, and the two variants that put something else in its place.
//!
//! | `--poly` | A_p(u) | tensor | products of A estimate x^2 |
//! |---|---|---|---|
//! | `anchor` | `(a_p . u)^2 / sqrt(P)` | `anchors` | no: `(1 + 2 x^2) / (D (D + 2))` |
//! | `exact` | all `u_i u_j` | | are x^2 |
//! | `nystrom` | `sum_q (a_q . u)^2 (K + 1e-3 I)^{-1/2}_{qp}`, `K_{qp} = (a_q . a_p)^2` | `anchors` | nearly; signed |
//! | `maclaurin` | `(r_p . u) (s_p . u) / sqrt(P)`, r and s of random signs | `signs` | without bias; signed |
//! | `tensorsketch` | the circular convolution of two count sketches of u | `sketches` | without bias; signed |
//! | `laplace` | 1 | | no: the kernel is `(C^2 / 4) / (C - 2 x)` |
//! | `hadamard` | 1, and E times `(omega . u)^2 / sqrt(F)` | | no: another kernel |
//!
//! Source: arXiv 2602.04915, section 2.4.2, its table of polynomial approximations and its appendix on features. The
//! released code scales three of them differently (`nystrom` and `tensorsketch` by one more `1 / sqrt(P)`, `maclaurin` by
//! `1 / D`), which the division takes out again up to norm_eps, and draws r and s from Gaussians.
//!
//! Features that may be negative can make denominators small or negative.

use crate::ops::{Draw, TensorSpec};
use crate::tensor::Shape;

pub(super) const ANCHORS: TensorSpec = TensorSpec::weight("anchors", "P D").drawn(Draw::Shaped(directions));
pub(super) const SIGNS: TensorSpec = TensorSpec::weight("signs", "2 P D").drawn(Draw::Shaped(signs));
pub(super) const SKETCHES: TensorSpec = TensorSpec::weight("sketches", "2 P D").drawn(Draw::Shaped(count_sketches));

/// Unit Gaussians' directions.
fn directions(shape: &Shape, values: &mut [f32]) {
    for row in values.chunks_exact_mut(shape.dims()[1]) {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= norm);
    }
}

fn signs(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = 1f32.copysign(*x));
}

/// Of every column one entry stays, whichever is largest, as a sign.
fn count_sketches(shape: &Shape, values: &mut [f32]) {
    let (rows, columns) = (shape.dims()[1], shape.dims()[2]);
    for sketch in values.chunks_exact_mut(rows * columns) {
        for column in 0..columns {
            let at = |row: usize| row * columns + column;
            let largest = (0..rows).max_by(|a, b| sketch[at(*a)].abs().total_cmp(&sketch[at(*b)].abs())).unwrap_or(0);
            for row in 0..rows {
                let x = &mut sketch[at(row)];
                *x = if row == largest { 1f32.copysign(*x) } else { 0.0 };
            }
        }
    }
}

/// The map for the square of the kernel: see the module's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Poly {
    /// Squares of inner products with anchors: the paper's default.
    Anchor,
    /// All products of two components: the square itself.
    Exact,
    /// Squares of inner products with anchors, whitened by their own kernel matrix; on the cpu backend.
    Nystrom,
    /// Products of two random projections.
    Maclaurin,
    /// The convolution of two count sketches.
    TensorSketch,
    /// No map: the kernel without its square.
    Laplace,
    /// Squares of the exponential map's own projections.
    Hadamard,
}

/// As `--poly` has them, in the order of [`Poly::ALL`].
pub(super) const WORDS: &[&str] = &["anchor", "exact", "nystrom", "maclaurin", "tensorsketch", "laplace", "hadamard"];

/// The largest number of anchors whose kernel matrix is decomposed.
pub(super) const MOST_WHITENED: usize = 256;

impl Poly {
    /// Every map.
    pub const ALL: [Self; 7] =
        [Self::Anchor, Self::Exact, Self::Nystrom, Self::Maclaurin, Self::TensorSketch, Self::Laplace, Self::Hadamard];

    /// As `--poly` has it.
    pub fn name(self) -> &'static str {
        WORDS[self as usize]
    }

    /// The map of that name.
    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|poly| poly.name() == word)
    }

    /// The tensor it takes, `[P, D]` or two of these.
    pub(super) fn weight(self) -> Option<&'static TensorSpec> {
        match self {
            Self::Anchor | Self::Nystrom => Some(&ANCHORS),
            Self::Maclaurin => Some(&SIGNS),
            Self::TensorSketch => Some(&SKETCHES),
            Self::Exact | Self::Laplace | Self::Hadamard => None,
        }
    }

    /// Rows of that tensor, for P of its features.
    pub(super) fn weight_rows(self, features: usize) -> usize {
        match self.weight() {
            None => 0,
            Some(spec) if spec.axes == ANCHORS.axes => features,
            Some(_) => 2 * features,
        }
    }
}

/// `(K + 1e-3 I)^{-1/2}` of anchors `[P, D]`, row after row: what `nystrom` multiplies squares by.
///
/// K is symmetric and has no negative eigenvalue; its eigenvectors are found by Jacobi's rotations, in f64.
pub(super) fn whitening(anchors: &[f32], dim: usize) -> Vec<f64> {
    let anchors: Vec<f64> = anchors.iter().map(|&x| x.into()).collect();
    let n = anchors.len() / dim;
    let row = |i: usize| &anchors[i * dim..][..dim];
    let square = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(x, y)| x * y).sum::<f64>().powi(2);
    let mut matrix: Vec<f64> = (0..n * n).map(|at| square(at / n, at % n)).collect();
    let mut vectors: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 1.0 } else { 0.0 }).collect();
    let scale: f64 = matrix.iter().map(|x| x * x).sum();
    // Quadratic convergence: a dozen sweeps is more than any matrix of this size needs.
    for _ in 0..30 {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| matrix[at] * matrix[at]).sum();
        if off <= 1e-30 * scale {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut matrix, &mut vectors, n, p, q);
            }
        }
    }
    let root: Vec<f64> = (0..n).map(|i| (matrix[i * n + i].max(0.0) + 1e-3).sqrt().recip()).collect();
    let entry = |i: usize, j: usize| (0..n).map(|k| vectors[k * n + i] * root[k] * vectors[k * n + j]).sum();
    (0..n * n).map(|at| entry(at / n, at % n)).collect()
}

/// Turns entry (p, q) of a symmetric matrix to zero. Row k of `vectors` becomes the eigenvector of diagonal entry k.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let entry = matrix[p * n + q];
    if entry == 0.0 {
        return;
    }
    let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * entry);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    let turn = |x: &mut [f64], a: usize, b: usize| (x[a], x[b]) = (c * x[a] - s * x[b], s * x[a] + c * x[b]);
    for k in 0..n {
        turn(matrix, k * n + p, k * n + q);
    }
    for k in 0..n {
        turn(matrix, p * n + k, q * n + k);
        turn(vectors, p * n + k, q * n + k);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whitened_kernel_matrix_is_the_identity() {
        // More anchors than their kernel has dimensions (6 at D = 3): most eigenvalues are zero but for what is added.
        for (n, dim) in [(1, 5), (4, 8), (40, 3), (64, 16)] {
            let mut anchors: Vec<f32> =
                (0..n * dim).map(|i| (((i * i * 7919 + i) % 1009) as f32) / 500.0 - 1.0).collect();
            directions(&[n, dim].into(), &mut anchors);
            let w = whitening(&anchors, dim);
            let row = |i: usize| &anchors[i * dim..][..dim];
            let kernel = |i: usize, j: usize| {
                let dot: f64 = row(i).iter().zip(row(j)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                dot * dot + if i == j { 1e-3 } else { 0.0 }
            };
            let times = |a: &dyn Fn(usize, usize) -> f64, b: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
                (0..n * n).map(|at| (0..n).map(|k| a(at / n, k) * b(k, at % n)).sum()).collect()
            };
            let w = |i: usize, j: usize| w[i * n + j];
            let half = times(&w, &kernel);
            let whole = times(&|i, j| half[i * n + j], &w);
            for (at, x) in whole.iter().enumerate() {
                let want = if at / n == at % n { 1.0 } else { 0.0 };
                assert!((x - want).abs() < 1e-9, "{n} anchors of {dim}: entry {at} is {x}");
                assert!((w(at / n, at % n) - w(at % n, at / n)).abs() < 1e-9, "not symmetric");
            }
        }
    }

    #[test]
    fn a_count_sketch_has_one_sign_a_column() {
        let shape: Shape = [2, 5, 40].into();
        let mut values: Vec<f32> = (0..400).map(|i| (((i * i * 31 + 7 * i) % 401) as f32) - 200.5).collect();
        count_sketches(&shape, &mut values);
        for sketch in values.chunks_exact(200) {
            for column in 0..40 {
                let entries: Vec<f32> = (0..5).map(|row| sketch[row * 40 + column]).filter(|x| *x != 0.0).collect();
                assert!(entries == [1.0] || entries == [-1.0], "{entries:?}");
            }
        }
    }
}
