//! The `cpu` backend: the recurrence of [`crate::cores::recurrence::cpu`] with keys b, values x and queries c. The keys
//! of each token are multiplied by its step. The epilogue adds d x and multiplies by the gate of z.

use std::ops::Range;

use super::{Config, convolved};
use crate::cores::recurrence::cpu as recurrence;
use crate::cores::recurrence::cpu::{Components, Head, Recurrence, Tensors};
use crate::cores::recurrence::cpu_decay::{Decay, Steps};
use crate::cpu::tiles::Source;
use crate::cpu::{channels, simd, threads};
use crate::tensor::{HostTensor, Layout, TensorMap, Values};

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let get = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let source = |name: &str| Source::new(get(name), Layout::Bnhd, None);
    let weights = |name: &str, there: bool| if there { get(name).to_f32() } else { vec![0.0; config.heads] };
    let a =
        if config.a_log { get("a_log").to_f32().into_iter().map(channels::rate).collect() } else { get("a").to_f32() };
    let steps = Steps { dt: source("dt"), a, bias: weights("dt_bias", config.dt_bias), rule: config.steps };
    let run = Recurrence {
        qkv: config.qkv(),
        features: Components { width: config.states, dim_v: config.dim },
        mode: config.mode,
        scale: 1.0,
        norm_eps: None,
        transposed: true,
    };
    let (d, dim) = (weights("d", config.d), config.dim);
    let (x, z) = (source("x"), config.z.then(|| source("z")));
    let finish = |head: Head, tokens: Range<usize>, rows: &mut [f32]| {
        let mut space = vec![0.0; rows.len()];
        if config.d {
            let x = x.tile(head.batch, head.head, tokens.clone(), &mut space);
            for (i, row) in rows.chunks_exact_mut(dim).enumerate() {
                let x = x.row(i, dim);
                if config.d_per_channel {
                    let own = d[head.head * dim..].iter().zip(x);
                    row.iter_mut().zip(own).for_each(|(row, (d, x))| *row += d * x);
                } else {
                    simd::add_scaled(row, x, d[head.head]);
                }
            }
        }
        if let Some(z) = &z {
            let mut gates = vec![0.0; rows.len()];
            let z = z.tile(head.batch, head.head, tokens, &mut space);
            gates.chunks_exact_mut(dim).enumerate().for_each(|(i, gate)| gate.copy_from_slice(z.row(i, dim)));
            channels::silu(&mut gates);
            simd::multiply(rows, &gates);
        }
    };
    let own = Tensors { q: source("c"), k: source("b"), v: source("x"), decay: Decay::Steps(steps) };
    run.run(own, tensors, "y", (config.d || config.z).then_some(&finish))
}

/// Runs one token in place: updates the rows of the state where they are.
pub(super) fn update(config: &Config, tensors: &mut TensorMap) -> bool {
    if config.length > 1 || !config.mode.carry {
        return false;
    }
    let slot = config.state_slot();
    let mut state = tensors.lend(slot.name, &slot.shape(), slot.dtype);
    let mut y = vec![0.0; config.batch * config.heads * config.dim];
    let vectors = ["x", "b", "c"].map(|name| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default());
    if let Values::F32(state) = state.values_mut() {
        step(config, tensors, vectors, state, &mut y);
    }
    tensors.insert(slot.name, state);
    let shape = [config.batch, 1, config.heads, config.dim];
    tensors.insert("y", HostTensor::f32(shape, y).cast(config.dtype));
    true
}

/// Runs one token with its convolution.
pub(super) fn run_convolved(config: &convolved::Config, tensors: &TensorMap) -> TensorMap {
    let mut all = tensors.clone();
    update_convolved(config, &mut all);
    let written = ["y", "state", "conv_state"];
    all.into_iter().filter(|(name, _)| written.contains(&name.as_str())).collect()
}

/// Runs one token with its convolution in place.
pub(super) fn update_convolved(config: &convolved::Config, tensors: &mut TensorMap) -> bool {
    let (plain, conv) = (&config.step, config.conv);
    let kept = config.conv_state_slot();
    let mut before = kept.as_ref().map(|slot| tensors.lend(slot.name, &slot.shape(), slot.dtype));
    let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
    let mut vectors = ["x", "b", "c"].map(read);
    let (weight, bias) = (read("conv_weight"), read("conv_bias"));
    let before_values: &mut [f32] = match before.as_mut().map(HostTensor::values_mut) {
        Some(Values::F32(values)) => values,
        _ => &mut [],
    };
    let mut channel = 0;
    for vectors in &mut vectors {
        let width = vectors.len() / plain.batch;
        for (row, value) in vectors.iter_mut().enumerate() {
            let (batch, own) = (row / width, channel + row % width);
            let before = &mut before_values[(batch * config.channels() + own) * conv.span()..][..conv.span()];
            let sum = channels::convolve(&weight[own * conv.width..][..conv.width], 1, before, *value);
            *value = sum + if conv.bias { bias[own] } else { 0.0 };
        }
        if conv.silu {
            channels::silu(vectors);
        }
        channel += width;
    }
    before.into_iter().zip(&kept).for_each(|(before, slot)| tensors.insert(slot.name, before));
    let slot = plain.state_slot();
    let mut state = tensors.lend(slot.name, &slot.shape(), slot.dtype);
    let mut y = vec![0.0; plain.batch * plain.heads * plain.dim];
    if let Values::F32(state) = state.values_mut() {
        step(plain, tensors, vectors, state, &mut y);
    }
    tensors.insert(slot.name, state);
    let shape = [plain.batch, 1, plain.heads, plain.dim];
    tensors.insert("y", HostTensor::f32(shape, y).cast(plain.dtype));
    true
}

/// One token: `S = e^(a dt) S + dt x b^T`, then `y = S c`, and the epilogue.
fn step(config: &Config, tensors: &TensorMap, [x, b, c]: [Vec<f32>; 3], state: &mut [f32], y: &mut [f32]) {
    let read = |name: &str| tensors.get(name).map(HostTensor::to_f32);
    let mut steps = read("dt").unwrap_or_else(|| panic!("tensor dt is missing"));
    let (heads, dim, states) = (config.heads, config.dim, config.states);
    if let Some(bias) = read("dt_bias") {
        steps.chunks_exact_mut(heads).for_each(|steps| simd::add(steps, &bias));
    }
    config.steps.apply(&mut steps);
    let rates = read("a_log").map(|logs| logs.into_iter().map(channels::rate).collect());
    let rates: Vec<f32> = rates.or_else(|| read("a")).unwrap_or_default();
    let work = (8 * dim * states) as u64;
    threads::each_pair_mut([state, y], [dim * states, dim], work, |unit, state, y| {
        let (batch, head) = (unit / heads, unit % heads);
        let group = batch * config.groups + head / (heads / config.groups);
        let [b, c] = [&b, &c].map(|shared| &shared[group * states..][..states]);
        let (step, x) = (steps[unit], &x[unit * dim..][..dim]);
        let decay = (step * rates[head]).exp();
        for ((row, x), y) in state.chunks_exact_mut(states).zip(x).zip(y) {
            *y = simd::decay_add_dot(row, decay, b, step * x, c);
        }
    });
    if let Some(d) = read("d") {
        let each = if config.d_per_channel { 1 } else { dim };
        let all = y.chunks_exact_mut(heads * dim).zip(x.chunks_exact(heads * dim));
        all.for_each(|(y, x)| (0..heads * dim).for_each(|at| y[at] += d[at / each] * x[at]));
    }
    if let Some(mut gates) = read("z") {
        channels::silu(&mut gates);
        simd::multiply(y, &gates);
    }
}

/// Describes the algorithm of one token with its convolution, for people.
pub(super) fn variant_convolved(_: &convolved::Config) -> String {
    "one token with its convolution".into()
}

/// Describes the chunks and segments, for people.
pub(super) fn variant(config: &Config) -> String {
    recurrence::variant::<Components>(config.mode.segment)
}
