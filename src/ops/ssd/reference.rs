//! The definition of the recurrence as plain loops, token by token. It shares no code with the kernels and the `cpu`
//! backend, which are compared with it.

use super::{Config, convolved};
use crate::operator::progress;
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested tokens of `y` and, if carried, `state` after the last token.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    recurrence(config, tensors, ["x", "b", "c"].map(read), rows)
}

/// The same of one token whose x, b and c are convolved first, and the inputs that its convolution keeps.
pub(super) fn convolved<T: Float>(config: &convolved::Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let (conv, channels) = (config.conv, config.channels());
    let read = |name: &str| float::read::<T>(tensors, name);
    let weight = read("conv_weight").unwrap_or_else(|| panic!("tensor conv_weight is missing"));
    let (bias, before) = (read("conv_bias").filter(|_| conv.bias), read("conv_state"));
    let mut kept = Vec::new();
    let mut vectors = ["x", "b", "c"].map(|name| read(name).unwrap_or_else(|| panic!("tensor {name} is missing")));
    for entry in 0..config.step.batch {
        let mut channel = 0;
        for vectors in &mut vectors {
            let width = vectors.len() / config.step.batch;
            for value in &mut vectors[entry * width..][..width] {
                // The inputs that the taps meet.
                let span = conv.width - 1;
                let at = (entry * channels + channel) * span;
                let mut inputs =
                    before.as_ref().map_or_else(|| vec![T::of(0.0); span], |all| all[at..][..span].to_vec());
                inputs.push(*value);
                let first = bias.as_ref().map_or(T::of(0.0), |bias| bias[channel]);
                let taps = weight[channel * conv.width..][..conv.width].iter().zip(&inputs);
                let sum = taps.fold(first, |sum, (tap, input)| sum + *tap * *input);
                *value = if conv.silu { float::silu(sum) } else { sum };
                kept.extend(inputs[1..].iter().map(|input| input.wide()));
                channel += 1;
            }
        }
    }
    let mut outputs = recurrence(&config.step, tensors, vectors, rows);
    if conv.width > 1 {
        outputs.push(("conv_state", kept));
    }
    outputs
}

fn recurrence<T: Float>(
    config: &Config,
    tensors: &TensorMap,
    [x, b, c]: [Vec<T>; 3],
    rows: Rows<'_>,
) -> ReferenceOutputs {
    let Config { batch, heads, groups, length, dim, states, .. } = *config;
    let given = |name: &str| float::read::<T>(tensors, name);
    let read = |name: &str| given(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let dt = read("dt");
    let a: Vec<T> = float::rates(tensors, config.a_log);
    let d = config.d.then(|| read("d"));
    let z = config.z.then(|| read("z"));
    let dt_bias = config.dt_bias.then(|| read("dt_bias"));
    let zeros = || vec![T::of(0.0); batch * heads * dim * states];
    let mut state = given("state").filter(|_| config.mode.carry).unwrap_or_else(zeros);
    let wanted = rows.of(length);
    let mut y = vec![0.0; batch * wanted.len() * heads * dim];
    for (unit, matrix) in state.chunks_exact_mut(dim * states).enumerate() {
        let (entry, h) = (unit / heads, unit % heads);
        let a = a[h];
        let mut next = wanted.iter().copied().enumerate().peekable();
        for t in 0..length {
            progress::begin(unit * length + t, batch * heads * length);
            let token = entry * length + t;
            let step = float::step(&config.steps, dt[token * heads + h], dt_bias.as_ref().map(|bias| bias[h]));
            let left = (step * a).exp();
            let shared = (token * groups + h / (heads / groups)) * states;
            let (b, c) = (&b[shared..][..states], &c[shared..][..states]);
            let row = (token * heads + h) * dim;
            for (p, states) in matrix.chunks_exact_mut(states).enumerate() {
                for (s, b) in states.iter_mut().zip(b) {
                    *s = left * *s + step * *b * x[row + p];
                }
            }
            let Some((at, _)) = next.next_if(|&(_, wanted)| wanted == t) else { continue };
            for (p, states) in matrix.chunks_exact(states).enumerate() {
                let mut sum = float::dot(states, c);
                if let Some(d) = &d {
                    sum += d[if config.d_per_channel { h * dim + p } else { h }] * x[row + p];
                }
                if let Some(z) = &z {
                    sum = sum * float::silu(z[row + p]);
                }
                y[((entry * wanted.len() + at) * heads + h) * dim + p] = sum.wide();
            }
        }
    }
    let mut outputs = vec![("y", y)];
    if config.mode.carry {
        outputs.push(("state", float::wide(state)));
    }
    outputs
}
