//! The `cpu` backend: threads process channels, some tokens at a time, adding one tap after another to all of them. With the
//! channels innermost they process tokens, all channels at a time.

use super::{Activation, ChannelLayout, Config};
use crate::cpu::channels;
use crate::cpu::tiles::Output;
use crate::cpu::{simd, threads};
use crate::tensor::{DType, HostTensor, Shape, TensorMap, Values, axes};

/// Tokens at a time. Together with their inputs they stay in a first-level cache, if the taps lie next to each other.
const TOKENS: usize = 2048;

/// Tokens at a time where a token is a row of channels.
const ROWS: usize = 32;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let tensor = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let s = config.shape;
    let (x, weight) = (tensor("x"), tensor("weight").to_f32());
    let bias = if config.bias { tensor("bias").to_f32() } else { vec![0.0; s.channels] };
    let given = tensors.get("state").filter(|_| config.mode.carry).map(HostTensor::to_f32);
    let inputs = Inputs { config, x, weight: &weight, bias: &bias };
    let (y, state) = match config.layout {
        ChannelLayout::Bcn => inputs.by_channels(given),
        ChannelLayout::Bnc => inputs.by_tokens(given),
    };
    let mut outputs = TensorMap::new();
    outputs.insert("y", y);
    if config.mode.carry && config.span() > 0 {
        outputs.insert("state", HostTensor::f32([s.batch, s.channels, config.span()], state));
    }
    outputs
}

/// Runs one token of a causal convolution in place: moves the inputs in the state by one.
pub(super) fn update(config: &Config, tensors: &mut TensorMap) -> bool {
    let (s, span) = (config.shape, config.span());
    if s.length > 1 || !config.mode.carry || span == 0 || config.left() < span {
        return false;
    }
    let mut state = tensors.lend("state", &Shape::from([s.batch, s.channels, span]), DType::F32);
    let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
    let (x, weight, mut y) = (read("x"), read("weight"), vec![0.0; s.rows()]);
    if config.bias {
        let bias = read("bias");
        y.chunks_exact_mut(s.channels).for_each(|y| y.copy_from_slice(&bias));
    }
    if let Values::F32(state) = state.values_mut() {
        for (row, (state, y)) in state.chunks_exact_mut(span).zip(&mut y).enumerate() {
            let taps = &weight[row % s.channels * config.width..][..config.width];
            *y += channels::convolve(taps, config.dilation, state, x[row]);
        }
    }
    if config.activation == Activation::Silu {
        channels::silu(&mut y);
    }
    tensors.insert("state", state);
    let shape = match config.layout {
        ChannelLayout::Bcn => s.shape(),
        ChannelLayout::Bnc => Shape::from([s.batch, 1, s.channels]),
    };
    tensors.insert("y", HostTensor::f32(shape, y).cast(s.dtype));
    true
}

struct Inputs<'a> {
    config: &'a Config,
    x: &'a HostTensor,
    weight: &'a [f32],
    bias: &'a [f32],
}

impl Inputs<'_> {
    fn by_channels(&self, given: Option<Vec<f32>>) -> (HostTensor, Vec<f32>) {
        let config = self.config;
        let (s, width, span, left) = (config.shape, config.width, config.span(), config.left());
        // Each task receives the window of its row, so there is one element per row even if the window is empty.
        let given = given.filter(|_| span > 0);
        let mut states = given.unwrap_or_else(|| vec![0.0; s.rows() * span.max(1)]);
        let y = Output::rows(s.dtype, s.rows(), s.length);
        // Windows that overlap by more than the tokens would mostly be copied.
        let tokens = TOKENS.max(2 * span).min(s.length);
        let work = (s.length * 2 * (width + 8)) as u64;
        threads::each_mut(&mut states, span.max(1), work, |row, state| {
            let taps = &self.weight[row % s.channels * width..][..width];
            let row_inputs = |range: std::ops::Range<usize>, to: &mut [f32], space: &mut [f32]| {
                let count = range.len();
                let start = row * s.length + range.start;
                to[..count].copy_from_slice(channels::span(self.x, start..start + count, space));
            };
            threads::scratch([span + tokens, tokens, tokens.max(span)], |[inputs, out, space]| {
                // `inputs[n]` is input first - L + n. The inputs after the token come in front of the first tokens too.
                let right = (span - left).min(s.length);
                inputs[..left].copy_from_slice(&state[..left]);
                row_inputs(0..right, &mut inputs[left..], space);
                inputs[left + right..span].fill(0.0);
                for first in (0..s.length).step_by(tokens) {
                    let count = tokens.min(s.length - first);
                    let ends = [first, first + count].map(|at| (at + span - left).min(s.length));
                    row_inputs(ends[0]..ends[1], &mut inputs[span..], space);
                    inputs[span + ends[1] - ends[0]..span + count].fill(0.0);
                    let out = &mut out[..count];
                    out.fill(self.bias[row % s.channels]);
                    for (w, tap) in taps.iter().enumerate() {
                        simd::add_scaled(out, &inputs[w * config.dilation..][..count], *tap);
                    }
                    if config.activation == Activation::Silu {
                        channels::silu(out);
                    }
                    // SAFETY: each row belongs to one task, and its tokens are stored in order, once each.
                    unsafe { y.span(row, first, out) };
                    inputs.copy_within(count..count + span, 0);
                }
                state[..span].copy_from_slice(&inputs[..span]);
            });
        });
        (y.finish().reshape(s.shape()), states)
    }

    fn by_tokens(&self, given: Option<Vec<f32>>) -> (HostTensor, Vec<f32>) {
        let config = self.config;
        let (s, span, left) = (config.shape, config.span(), config.left());
        // The weights of a tap, and the inputs of a token in the state, as rows of channels.
        let taps = axes::exchange(self.weight, [s.channels, config.width]);
        let before = given.map(|state| axes::exchange(&state, [s.channels, span]));
        let y = Output::rows(s.dtype, s.batch * s.length, s.channels);
        let blocks = s.length.div_ceil(ROWS);
        let work = (ROWS * s.channels * 2 * (config.width + 8)) as u64;
        threads::each(s.batch * blocks, work, |task| {
            let (b, start) = (task / blocks, task % blocks * ROWS);
            threads::scratch([s.channels, s.channels], |[out, space]| {
                for n in start..(start + ROWS).min(s.length) {
                    out.copy_from_slice(self.bias);
                    for (w, tap) in taps.chunks_exact(s.channels).enumerate() {
                        // The number of the input, plus L.
                        let input = n + w * config.dilation;
                        match (input.checked_sub(left), &before) {
                            (Some(token), _) if token < s.length => {
                                simd::add_product(out, tap, self.token(b, token, space))
                            }
                            (None, Some(before)) => {
                                simd::add_product(out, tap, &before[(b * span + input) * s.channels..][..s.channels]);
                            }
                            _ => {}
                        }
                    }
                    if config.activation == Activation::Silu {
                        channels::silu(out);
                    }
                    // SAFETY: each token belongs to one task, and is stored once.
                    unsafe { y.span(b * s.length + n, 0, out) };
                }
            });
        });
        let mut states = Vec::new();
        if config.mode.carry {
            let mut space = vec![0.0; s.channels];
            for b in 0..s.batch {
                let mut last = Vec::with_capacity(span * s.channels);
                for at in s.length..s.length + span {
                    match (at.checked_sub(span), &before) {
                        (Some(token), _) => last.extend_from_slice(self.token(b, token, &mut space)),
                        (None, Some(before)) => {
                            last.extend_from_slice(&before[(b * span + at) * s.channels..][..s.channels]);
                        }
                        (None, None) => last.resize(last.len() + s.channels, 0.0),
                    }
                }
                states.extend(axes::exchange(&last, [span, s.channels]));
            }
        }
        (y.finish().reshape([s.batch, s.length, s.channels]), states)
    }

    /// The channels of a token.
    fn token<'b>(&'b self, b: usize, token: usize, space: &'b mut [f32]) -> &'b [f32] {
        let s = self.config.shape;
        let start = (b * s.length + token) * s.channels;
        channels::span(self.x, start..start + s.channels, space)
    }
}

/// Describes the algorithm, for people.
pub(super) fn variant(config: &Config) -> String {
    match config.layout {
        ChannelLayout::Bcn => format!("{TOKENS} tokens of a channel at a time"),
        ChannelLayout::Bnc => format!("{ROWS} tokens of all channels at a time"),
    }
}
