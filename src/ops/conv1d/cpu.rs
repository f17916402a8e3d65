//! The `cpu` backend: channels on threads, some tokens at a time, a tap after another over all of them.

use super::{Activation, Config};
use crate::ops::cpu::{self, Output, channels};
use crate::tensor::{HostTensor, TensorMap};

/// Tokens at a time: with their inputs they stay in a first-level cache.
const TOKENS: usize = 2048;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let tensor = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let (s, width) = (config.shape, config.width);
    let (x, weight) = (tensor("x"), tensor("weight").to_f32());
    let bias = if config.bias { tensor("bias").to_f32() } else { vec![0.0; s.channels] };
    let before = width - 1;
    let given = tensors.get("state").filter(|_| config.carry).map(HostTensor::to_f32);
    // Rows are given out with their windows, so one is there even where it has nothing in it.
    let mut states = given.filter(|_| before > 0).unwrap_or_else(|| vec![0.0; s.rows() * before.max(1)]);
    let y = Output::rows(s.dtype, s.rows(), s.length);
    let tokens = TOKENS.min(s.length);
    let work = (s.length * 2 * (width + 8)) as u64;
    cpu::each_mut(&mut states, before.max(1), work, |row, state| {
        let taps = &weight[row % s.channels * width..][..width];
        cpu::scratch([before + tokens, tokens, tokens], |[inputs, out, space]| {
            inputs[..before].copy_from_slice(&state[..before]);
            for first in (0..s.length).step_by(tokens) {
                let count = tokens.min(s.length - first);
                let start = row * s.length + first;
                inputs[before..][..count].copy_from_slice(channels::span(x, start..start + count, space));
                let out = &mut out[..count];
                out.fill(bias[row % s.channels]);
                for (w, tap) in taps.iter().enumerate() {
                    cpu::add_scaled(out, &inputs[w..][..count], *tap);
                }
                if config.activation == Activation::Silu {
                    channels::silu(out);
                }
                // SAFETY: a row is one task's, and its tokens follow each other.
                unsafe { y.span(row, first, out) };
                inputs.copy_within(count..count + before, 0);
            }
            state[..before].copy_from_slice(&inputs[..before]);
        });
    });
    let mut outputs = TensorMap::new();
    outputs.insert("y", y.finish().reshape(s.shape()));
    if config.carry && before > 0 {
        outputs.insert("state", HostTensor::f32([s.batch, s.channels, before], states));
    }
    outputs
}

/// One line for people.
pub(super) fn variant() -> String {
    format!("{TOKENS} tokens of a channel at a time")
}
