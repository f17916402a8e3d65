//! The `cpu` backend: the tiled core over q, k and v as they are, with the kernel as its score.

use super::{Config, Kernel, Norm};
use crate::ops::cpu::attend::{self, Map, Score, Weights};
use crate::ops::cpu::wide;
use crate::tensor::TensorMap;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let weights = match config.norm {
        Norm::Kernel => Weights::Plain(config.norm_eps),
        Norm::Softmax => Weights::Softmax,
    };
    attend::run(config.qkv, config.mask(), Score::Map(config), weights, tensors)
}

/// Below this share of both squares the difference that is left of them is mostly rounding.
const NEAR: f32 = 1.0 / 32.0;

/// In place of the score of vectors near each other, until it is taken from the vectors themselves. Scores are not
/// negative.
const PENDING: f32 = -1.0;

impl Map for Config {
    fn map(
        &self,
        products: &mut [f32],
        squares: &[f32],
        square: f32,
        factor: f32,
        apart: &dyn Fn(usize, f32, f32) -> f32,
    ) {
        let near = match self.kernel {
            Kernel::Spherical => spherical(products, squares, length(square), self.epsilon, factor),
            Kernel::Euclidean => euclidean(products, squares, square, self.epsilon, factor),
        };
        if !near {
            return;
        }
        for (i, (score, &other)) in products.iter_mut().zip(squares).enumerate() {
            if *score == PENDING {
                let (apart, both) = match self.kernel {
                    Kernel::Spherical => (apart(i, length(other), length(square)), 2.0),
                    Kernel::Euclidean => (apart(i, 1.0, 1.0), other + square),
                };
                let inner = 0.5 * (both - apart);
                *score = inner * inner / (apart + self.epsilon) * factor;
            }
        }
    }
}

/// What a vector is divided by to have unit length.
#[inline(always)]
fn length(square: f32) -> f32 {
    square.sqrt().max(1e-12)
}

/// The kernel times `factor`; [`PENDING`], and whether there was one, of vectors near each other.
#[inline(always)]
fn score(inner: f32, both: f32, epsilon: f32, factor: f32, near: &mut bool) -> f32 {
    let apart = both - 2.0 * inner;
    let own = apart < NEAR * both;
    *near |= own;
    if own { PENDING } else { inner * inner / (apart + epsilon) * factor }
}

wide! {
    fn spherical(products: &mut [f32], squares: &[f32], length_of_one: f32, epsilon: f32, factor: f32) -> bool {
        let mut near = false;
        for (x, square) in products.iter_mut().zip(squares) {
            *x = score(*x / (length(*square) * length_of_one), 2.0, epsilon, factor, &mut near);
        }
        near
    }
}

wide! {
    fn euclidean(products: &mut [f32], squares: &[f32], square: f32, epsilon: f32, factor: f32) -> bool {
        let mut near = false;
        for (x, other) in products.iter_mut().zip(squares) {
            *x = score(*x, other + square, epsilon, factor, &mut near);
        }
        near
    }
}
