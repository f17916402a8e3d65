//! The definition, as plain loops in f32 and in f64.

use super::{Activation, Config, NAMES, Output};
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// Outputs of the wanted rows of x.
pub(super) fn outputs<T: Float>(c: &Config, tensors: &TensorMap, wanted: Rows<'_>) -> ReferenceOutputs {
    let given = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let (x, weight) = (given("x"), given("weight"));
    let [bias, times, residual] =
        [("bias", c.bias), ("times", c.times), ("residual", c.residual)].map(|(name, is)| is.then(|| given(name)));
    let rows = wanted.of(c.rows);
    let scale = T::of(f64::from(c.scale));
    let mut first = 0;
    let mut all = Vec::new();
    for (name, &Output { width, columns }) in NAMES.into_iter().zip(&c.outputs) {
        let mut o = vec![0.0; rows.len() * width];
        for (at, &n) in rows.iter().enumerate() {
            let row: Vec<T> =
                (0..c.inner).map(|k| if c.x_columns { x[k * c.rows + n] } else { x[n * c.inner + k] }).collect();
            for m in 0..width {
                let mut sum = float::dot(&row, &weight[(first + m) * c.inner..][..c.inner]);
                if let Some(bias) = &bias {
                    sum += bias[first + m];
                }
                let mut value = activated(sum, c.activation);
                let own = if columns { m * c.rows + n } else { n * width + m };
                if let Some(times) = &times {
                    value = value * times[own];
                }
                value = value * scale;
                if let Some(residual) = &residual {
                    value += residual[own];
                }
                o[if columns { m * rows.len() + at } else { at * width + m }] = value.wide();
            }
        }
        first += width;
        all.push((name, o));
    }
    all
}

fn activated<T: Float>(x: T, activation: Activation) -> T {
    let [zero, one, half] = [0.0, 1.0, 0.5].map(T::of);
    match activation {
        Activation::None => x,
        Activation::Silu => float::silu(x),
        Activation::Gelu => x * normal(x),
        Activation::GeluTanh => {
            let inner = T::of(0.797_884_560_802_865_4) * (x + T::of(0.044_715) * x * x * x);
            half * x * (one + inner.tanh())
        }
        Activation::Relu => largest(x, zero),
        Activation::Relu2 => largest(x, zero) * largest(x, zero),
        Activation::Sigmoid => float::sigmoid(x),
        Activation::LogSigmoid => zero - float::softplus(zero - x),
    }
}

/// The larger of two numbers; x if it is none.
fn largest<T: Float>(x: T, least: T) -> T {
    if x < least { least } else { x }
}

/// The share of a standard normal distribution below x: `(1 + erf(x / sqrt 2)) / 2`.
fn normal<T: Float>(x: T) -> T {
    let [zero, one, half] = [0.0, 1.0, 0.5].map(T::of);
    let size = if x < zero { zero - x } else { x };
    let density = (zero - half * size * size).exp() * T::of(0.398_942_280_401_432_7);
    let outside = if size < T::of(3.0) {
        // The share between 0 and |x| is the density times sum_n |x|^(2n+1) / (1 3 5 ... (2n+1)), all of one sign.
        let (mut term, mut sum) = (size, size);
        for n in 1..80 {
            term = term * size * size / T::of(f64::from(2 * n + 1));
            sum += term;
        }
        half - density * sum
    } else {
        // The share beyond |x| is the density over a continued fraction: |x| + 1/(|x| + 2/(|x| + 3/...)).
        let fraction = (1..80).rev().fold(size, |rest, n| size + T::of(f64::from(n)) / rest);
        density / fraction
    };
    if x < zero { outside } else { one - outside }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the error function to 15 digits (Abramowitz and Stegun, table 7.1, and their complements).
    #[test]
    fn the_normal_distribution_is_that_of_tables() {
        let table = [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_543),
            (2.0, 0.977_249_868_051_821),
            (3.0, 0.998_650_101_968_370),
            (-3.0, 0.001_349_898_031_630),
            (-1.0, 0.158_655_253_931_457),
            (-6.0, 9.865_876_450_377_0e-10),
            (40.0, 1.0),
        ];
        for (x, want) in table {
            let got = normal::<f64>(x);
            assert!((got - want).abs() < 1e-14 && (x > -5.0 || (got / want - 1.0).abs() < 1e-9), "{x}: {got}");
            assert!((f64::from(normal::<f32>(x as f32)) - want).abs() < 2e-7, "{x}");
        }
        assert!(normal::<f64>(f64::NAN).is_nan());
    }
}
