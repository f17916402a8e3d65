//! Maps for the square of the kernel, and two variants that replace the square by something else.
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
//! released code scales three of them differently (`nystrom` and `tensorsketch` by one more `1 / sqrt(P)`, `maclaurin`
//! by `1 / D`); the division removes these factors, except for the effect of norm_eps. It also draws r and s from
//! Gaussians.
//!
//! Features that may be negative can make denominators small or negative.

/// The map for the square of the kernel. The table at the top of `src/ops/slay/poly.rs` has the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Poly {
    /// Squares of inner products with anchors: the paper's default.
    Anchor,
    /// All products of two components, which reproduce the square.
    Exact,
    /// Squares of inner products with anchors, whitened by their own kernel matrix; only on the `cpu` backend.
    Nystrom,
    /// Products of two random projections.
    Maclaurin,
    /// The circular convolution of two count sketches.
    TensorSketch,
    /// No map: another kernel, without the square.
    Laplace,
    /// Squares of the exponential map's own projections.
    Hadamard,
}

/// The values of `--poly`, in the order of [`Poly::ALL`].
pub(super) const WORDS: &[&str] = &["anchor", "exact", "nystrom", "maclaurin", "tensorsketch", "laplace", "hadamard"];

/// Maximum number of anchors for `nystrom`, which decomposes their kernel matrix.
pub(super) const MOST_WHITENED: usize = 256;

impl Poly {
    /// Every map.
    pub const ALL: [Self; 7] =
        [Self::Anchor, Self::Exact, Self::Nystrom, Self::Maclaurin, Self::TensorSketch, Self::Laplace, Self::Hadamard];

    /// The value of `--poly`.
    pub fn name(self) -> &'static str {
        WORDS[self as usize]
    }

    /// The map of that name.
    #[cfg(feature = "catalog")]
    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|poly| poly.name() == word)
    }

    /// Name of the map's tensor: `anchors [P, D]`, `signs [2, P, D]` or `sketches [2, P, D]`; `None` for a map without
    /// one.
    pub(super) fn weight(self) -> Option<&'static str> {
        match self {
            Self::Anchor | Self::Nystrom => Some("anchors"),
            Self::Maclaurin => Some("signs"),
            Self::TensorSketch => Some("sketches"),
            Self::Exact | Self::Laplace | Self::Hadamard => None,
        }
    }

    /// Number of rows of that tensor, for `features` features of the map.
    pub(super) fn weight_rows(self, features: usize) -> usize {
        match self.weight() {
            None => 0,
            Some("anchors") => features,
            Some(_) => 2 * features,
        }
    }
}

/// `(K + 1e-3 I)^{-1/2}` of anchors `[P, D]`, row by row. `nystrom` multiplies the squares by this matrix.
///
/// K is symmetric and has no negative eigenvalue. Its eigenvectors are computed by Jacobi rotations, in f64.
pub(super) fn whitening(anchors: &[f32], dim: usize) -> Vec<f64> {
    let anchors: Vec<f64> = anchors.iter().map(|&x| x.into()).collect();
    let n = anchors.len() / dim;
    let row = |i: usize| &anchors[i * dim..][..dim];
    let square = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(x, y)| x * y).sum::<f64>().powi(2);
    let mut matrix: Vec<f64> = (0..n * n).map(|at| square(at / n, at % n)).collect();
    let mut vectors: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 1.0 } else { 0.0 }).collect();
    let scale: f64 = matrix.iter().map(|x| x * x).sum();
    // Convergence is quadratic: a dozen sweeps are more than enough for matrices of this size.
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

/// Applies the rotation that makes entry (p, q) of a symmetric matrix zero. Row k of `vectors` becomes the eigenvector
/// of diagonal entry k.
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

#[cfg(all(test, feature = "catalog"))]
mod tests {
    use super::super::row::directions;
    use super::*;

    #[test]
    fn a_whitened_kernel_matrix_is_the_identity() {
        // There are more anchors than their kernel has dimensions (6 at D = 3), so most eigenvalues are zero before
        // 1e-3 is added.
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
}
