//! Arithmetic for the definitions of the operators, in f32 (to measure the rounding error of a definition) or in f64
//! (to compute the exact result).

use std::ops::{Add, AddAssign, Div, Mul, Sub};

use crate::operator::steps::Steps;
use crate::tensor::TensorMap;

/// A float type: f32 or f64.
pub trait Float:
    Copy + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + AddAssign
{
    /// Rounds a number to this precision.
    fn of(x: f64) -> Self;
    /// `e^x`.
    #[must_use]
    fn exp(self) -> Self;
    /// Natural logarithm.
    #[must_use]
    fn ln(self) -> Self;
    /// Hyperbolic tangent.
    #[must_use]
    fn tanh(self) -> Self;
    /// `ln(1 + x)`.
    #[must_use]
    fn ln_1p(self) -> Self;
    /// Square root.
    #[must_use]
    fn sqrt(self) -> Self;
    /// Converts to f64.
    fn wide(self) -> f64;
}

impl Float for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn ln(self) -> Self {
        f32::ln(self)
    }
    fn tanh(self) -> Self {
        f32::tanh(self)
    }
    fn ln_1p(self) -> Self {
        f32::ln_1p(self)
    }
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn ln(self) -> Self {
        f64::ln(self)
    }
    fn tanh(self) -> Self {
        f64::tanh(self)
    }
    fn ln_1p(self) -> Self {
        f64::ln_1p(self)
    }
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Reads the values of a tensor; `None` if it is missing.
pub fn read<T: Float>(tensors: &TensorMap, name: &str) -> Option<Vec<T>> {
    Some(tensors.get(name)?.to_f64().into_iter().map(T::of).collect())
}

/// Converts the values to f64.
pub fn wide<T: Float>(values: Vec<T>) -> Vec<f64> {
    values.into_iter().map(Float::wide).collect()
}

/// Inner product, summed from left to right.
pub fn dot<T: Float>(x: &[T], y: &[T]) -> T {
    x.iter().zip(y).fold(T::of(0.0), |sum, (&x, &y)| sum + x * y)
}

/// `ln(1 + e^x)`. Above 20 it returns x, because the two differ by less than the precision of f32.
pub fn softplus<T: Float>(x: T) -> T {
    if x > T::of(20.0) { x } else { x.exp().ln_1p() }
}

/// The step of a token from its dt and its bias.
pub fn step<T: Float>(steps: &Steps, dt: T, bias: Option<T>) -> T {
    let step = bias.map_or(dt, |bias| dt + bias);
    let step = if steps.softplus { softplus(step) } else { step };
    let mut step = step + T::of(f64::from(steps.offset));
    for (limit, above) in [(steps.min, false), (steps.max, true)] {
        let Some(limit) = limit.map(|limit| T::of(f64::from(limit))) else { continue };
        step = if (above && step > limit) || (!above && step < limit) { limit } else { step };
    }
    step
}

/// The rate of a state space model whose logarithm without its sign is given: `-e^min(x, 88)`. Beyond 88, where f32 ends, a
/// state is gone after any step that is not 0, and infinity times 0 would be NaN.
pub fn rate<T: Float>(log: T) -> T {
    T::of(0.0) - (if log > T::of(88.0) { T::of(88.0) } else { log }).exp()
}

/// The rates of a state space model: `a`, or those whose logarithms without their signs `a_log` has.
pub fn rates<T: Float>(tensors: &TensorMap, a_log: bool) -> Vec<T> {
    let given = |name: &str| read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    if a_log { given("a_log").into_iter().map(rate).collect() } else { given("a") }
}

/// `1 / (1 + e^-x)`.
pub fn sigmoid<T: Float>(x: T) -> T {
    T::of(1.0) / (T::of(1.0) + (T::of(0.0) - x).exp())
}

/// `x / (1 + e^-x)`.
pub fn silu<T: Float>(x: T) -> T {
    x / (T::of(1.0) + (T::of(0.0) - x).exp())
}

/// `exp(x_i) / sum_j exp(x_j)`, with the maximum subtracted first so that it does not overflow. Returns an empty vector
/// for no scores.
pub fn softmax<T: Float>(mut scores: Vec<T>) -> Vec<T> {
    let top = scores.iter().copied().fold(None, |top, x| if top.is_some_and(|t| t >= x) { top } else { Some(x) });
    let Some(top) = top else { return scores };
    let mut sum = T::of(0.0);
    for x in &mut scores {
        *x = (*x - top).exp();
        sum += *x;
    }
    scores.iter_mut().for_each(|x| *x = *x / sum);
    scores
}
