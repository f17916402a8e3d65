//! The definition of the convolution as plain loops. It shares no code with the kernels and the `cpu` backend, which
//! are compared with it.

use super::{Activation, Config};
use crate::operator::progress;
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested tokens of `y` and, if carried, the state after the last token.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let (channels, length, width) = (config.shape.channels, config.shape.length, config.width);
    let read = |name: &str| float::read::<T>(tensors, name);
    let x = read("x").expect("an input is missing");
    let weight = read("weight").expect("an input is missing");
    let bias = read("bias").filter(|_| config.bias);
    let before = width - 1;
    let given = read("state").filter(|_| config.mode.carry);
    let wanted = rows.of(length);
    let mut y = Vec::with_capacity(config.shape.rows() * wanted.len());
    let mut state = Vec::with_capacity(config.shape.rows() * before);
    for (row, x) in x.chunks_exact(length).enumerate() {
        progress::begin(row, config.shape.rows());
        let window = match &given {
            Some(given) => given[row * before..][..before].to_vec(),
            None => vec![T::of(0.0); before],
        };
        // `inputs[n]` is input n - W + 1.
        let inputs = [&window, x].concat();
        let taps = &weight[row % channels * width..][..width];
        for &n in &wanted {
            let first = bias.as_ref().map_or(T::of(0.0), |bias| bias[row % channels]);
            let sum = taps.iter().zip(&inputs[n..]).fold(first, |sum, (&w, &x)| sum + w * x);
            y.push(if config.activation == Activation::Silu { float::silu(sum) } else { sum }.wide());
        }
        state.extend(inputs[length..].iter().map(|x| x.wide()));
    }
    let mut outputs = vec![("y", y)];
    if config.mode.carry && before > 0 {
        outputs.push(("state", state));
    }
    outputs
}
