//! The definition of the convolution as plain loops. No engine type, no cleverness: what every kernel is judged by.

use super::{Activation, Config};
use crate::ops::float::{self, Float};
use crate::ops::{Definition, Rows};
use crate::tensor::TensorMap;

/// The wanted tokens of `y` and, when carried, the window after the last.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> Definition {
    let (channels, length, width) = (config.shape.channels, config.shape.length, config.width);
    let read = |name: &str| float::read::<T>(tensors, name);
    let x = read("x").expect("an input is missing");
    let weight = read("weight").expect("an input is missing");
    let bias = read("bias").filter(|_| config.bias);
    let before = width - 1;
    let given = read("state").filter(|_| config.carry);
    let wanted = rows.of(length);
    let mut y = Vec::with_capacity(config.shape.rows() * wanted.len());
    let mut state = Vec::with_capacity(config.shape.rows() * before);
    for (row, x) in x.chunks_exact(length).enumerate() {
        let window = match &given {
            Some(given) => given[row * before..][..before].to_vec(),
            None => vec![T::of(0.0); before],
        };
        // Input n - W + 1 is at n.
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
    if config.carry && before > 0 {
        outputs.push(("state", state));
    }
    outputs
}
