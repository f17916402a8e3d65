//! The definition of the selective scan as plain loops. It shares no code with the kernels and the `cpu` backend, which
//! are compared with it.

use super::Config;
use crate::operator::progress;
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested tokens of `y` and, if carried, `state` after the last token.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let (channels, length, states) = (config.shape.channels, config.shape.length, config.states);
    let given = |name: &str| float::read::<T>(tensors, name);
    let read = |name: &str| given(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let [x, dt, b, c] = ["x", "dt", "b", "c"].map(read);
    let a: Vec<T> = float::rates(tensors, config.a_log);
    let d = config.d.then(|| read("d"));
    let z = config.z.then(|| read("z"));
    let dt_bias = config.dt_bias.then(|| read("dt_bias"));
    let zero = T::of(0.0);
    let zeros = || vec![zero; config.shape.rows() * states];
    let mut state = given("state").filter(|_| config.mode.carry).unwrap_or_else(zeros);
    let wanted = rows.of(length);
    let mut y = Vec::with_capacity(config.shape.rows() * wanted.len());
    for (row, h) in state.chunks_exact_mut(states).enumerate() {
        let (batch, ch) = (row / channels, row % channels);
        let group = batch * config.group_count() + ch / (channels / config.group_count());
        let a = &a[ch * states..][..states];
        let mut next = wanted.iter().copied().peekable();
        for t in 0..length {
            progress::begin(row * length + t, config.shape.rows() * length);
            let at = row * length + t;
            let along =
                |constant: bool, s: usize| if constant { ch * states + s } else { (group * states + s) * length + t };
            let step = float::step(&config.steps, dt[at], dt_bias.as_ref().map(|bias| bias[ch]));
            for (s, h) in h.iter_mut().enumerate() {
                *h = (step * a[s]).exp() * *h + step * b[along(config.constant_b, s)] * x[at];
            }
            if next.next_if_eq(&t).is_some() {
                let mut sum = h.iter().enumerate().fold(zero, |sum, (s, &h)| sum + c[along(config.constant_c, s)] * h);
                if let Some(d) = &d {
                    sum += d[ch] * x[at];
                }
                if let Some(z) = &z {
                    sum = sum * float::silu(z[at]);
                }
                y.push(sum.wide());
            }
        }
    }
    let mut outputs = vec![("y", y)];
    if config.mode.carry {
        outputs.push(("state", float::wide(state)));
    }
    outputs
}
