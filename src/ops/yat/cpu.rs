//! The `cpu` backend: the tiled attention core, applied directly to q, k and v, with the Yat kernel as its score.

use super::{Config, Kernel, Norm};
use crate::cores::attention::cpu as attention;
use crate::cores::attention::cpu::{Map, Score, Weights};
use crate::cpu::simd;
use crate::tensor::TensorMap;
use simd::wide;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let weights = match config.norm {
        Norm::Kernel => Weights::Plain(config.norm_eps),
        Norm::Softmax => Weights::Softmax,
    };
    attention::run(config.qkv, config.rule(), &config.extras(), Score::Map(config), weights, tensors)
}

/// If the squared distance is below this share of the sum of both squares, its difference form is mostly rounding
/// error.
const NEAR: f32 = 1.0 / 32.0;

/// Placeholder for the score of vectors that are near each other, until it is computed from the vectors themselves. No
/// score is negative.
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

/// The length that a vector is divided by to get unit length: at least 1e-12.
#[inline(always)]
fn length(square: f32) -> f32 {
    square.sqrt().max(1e-12)
}

/// The kernel times `factor`. For vectors near each other it returns [`PENDING`] and sets `near`.
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
