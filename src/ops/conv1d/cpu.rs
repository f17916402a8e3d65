//! The `cpu` backend: threads process channels, some tokens at a time, adding one tap after another to all of them.

use super::{Activation, Config};
use crate::cpu::channels;
use crate::cpu::tiles::Output;
use crate::cpu::{simd, threads};
use crate::tensor::{HostTensor, TensorMap};

/// Tokens at a time. Together with their inputs they stay in a first-level cache.
const TOKENS: usize = 2048;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let tensor = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let (s, width) = (config.shape, config.width);
    let (x, weight) = (tensor("x"), tensor("weight").to_f32());
    let bias = if config.bias { tensor("bias").to_f32() } else { vec![0.0; s.channels] };
    let before = width - 1;
    let given = tensors.get("state").filter(|_| config.mode.carry).map(HostTensor::to_f32);
    // Each task receives the window of its row, so there is one element per row even if the window is empty.
    let mut states = given.filter(|_| before > 0).unwrap_or_else(|| vec![0.0; s.rows() * before.max(1)]);
    let y = Output::rows(s.dtype, s.rows(), s.length);
    let tokens = TOKENS.min(s.length);
    let work = (s.length * 2 * (width + 8)) as u64;
    threads::each_mut(&mut states, before.max(1), work, |row, state| {
        let taps = &weight[row % s.channels * width..][..width];
        threads::scratch([before + tokens, tokens, tokens], |[inputs, out, space]| {
            inputs[..before].copy_from_slice(&state[..before]);
            for first in (0..s.length).step_by(tokens) {
                let count = tokens.min(s.length - first);
                let start = row * s.length + first;
                inputs[before..][..count].copy_from_slice(channels::span(x, start..start + count, space));
                let out = &mut out[..count];
                out.fill(bias[row % s.channels]);
                for (w, tap) in taps.iter().enumerate() {
                    simd::add_scaled(out, &inputs[w..][..count], *tap);
                }
                if config.activation == Activation::Silu {
                    channels::silu(out);
                }
                // SAFETY: each row belongs to one task, and its tokens are stored in order, once each.
                unsafe { y.span(row, first, out) };
                inputs.copy_within(count..count + before, 0);
            }
            state[..before].copy_from_slice(&inputs[..before]);
        });
    });
    let mut outputs = TensorMap::new();
    outputs.insert("y", y.finish().reshape(s.shape()));
    if config.mode.carry && before > 0 {
        outputs.insert("state", HostTensor::f32([s.batch, s.channels, before], states));
    }
    outputs
}

/// Describes the algorithm, for people.
pub(super) fn variant() -> String {
    format!("{TOKENS} tokens of a channel at a time")
}
