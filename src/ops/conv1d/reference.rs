//! The definition of the convolution as plain loops. It shares no code with the kernels and the `cpu` backend, which
//! are compared with it.

use super::{Activation, ChannelLayout, Config};
use crate::operator::progress;
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested tokens of `y` and, if carried, the state after the last token.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let (channels, length) = (config.shape.channels, config.shape.length);
    let read = |name: &str| float::read::<T>(tensors, name);
    let x = read("x").expect("an input is missing");
    let weight = read("weight").expect("an input is missing");
    let bias = read("bias").filter(|_| config.bias);
    let (span, before) = (config.span(), config.left());
    let given = read("state").filter(|_| config.mode.carry);
    let wanted = rows.of(length);
    // Where token n of a row is, among so many tokens.
    let place = |row: usize, n: usize, tokens: usize| match config.layout {
        ChannelLayout::Bcn => row * tokens + n,
        ChannelLayout::Bnc => (row / channels * tokens + n) * channels + row % channels,
    };
    let mut y = vec![0.0; config.shape.rows() * wanted.len()];
    let mut state = Vec::new();
    for row in 0..config.shape.rows() {
        progress::begin(row, config.shape.rows());
        // Input i - L of the row.
        let input = |i: usize| match (i.checked_sub(before), &given) {
            (Some(n), _) if n < length => x[place(row, n, length)],
            (None, Some(given)) => given[row * span + i],
            _ => T::of(0.0),
        };
        let taps = &weight[row % channels * config.width..][..config.width];
        for (at, &n) in wanted.iter().enumerate() {
            let first = bias.as_ref().map_or(T::of(0.0), |bias| bias[row % channels]);
            let taps = taps.iter().enumerate();
            let sum = taps.fold(first, |sum, (w, &tap)| sum + tap * input(n + w * config.dilation));
            let sum = if config.activation == Activation::Silu { float::silu(sum) } else { sum };
            y[place(row, at, wanted.len())] = sum.wide();
        }
        if config.mode.carry {
            state.extend((length..length + span).map(|i| input(i).wide()));
        }
    }
    let mut outputs = vec![("y", y)];
    if config.mode.carry && span > 0 {
        outputs.push(("state", state));
    }
    outputs
}
