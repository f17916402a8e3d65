//! The definition of RAM-Net as plain loops, token by token. It shares no code with the kernels and the `cpu` backend,
//! which are compared with it.

use super::{Config, Rule};
use crate::operator::progress;
use crate::operator::{ReferenceOutputs, Rows};
use crate::ops::primitives::reference::{products, top};
use crate::tensor::{HostTensor, TensorMap, Values};
use crate::verify::float::{self, Float};

/// The requested tokens of `o` and, if carried, `state`, `mass` and `position` after the last token.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let s = &config.qkv;
    let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let (q, k, mut v, gamma) = (read("q"), read("k"), read("v"), read("gamma"));
    let mut codes = None;
    if let Some(quantize) = config.quantize() {
        let tensor = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let (code, nearest) = quantize.definition(tensor("v"), tensor("codebook"));
        v = nearest.into_iter().map(T::of).collect();
        codes = Some((quantize.tokens.wanted(rows), code));
    }
    let raw = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
    let (raw_q, raw_k) = (raw("q"), raw("k"));
    let (slots, e) = (config.slots_of_a_head(), s.dim_v);
    let units = s.batch * s.heads;
    let mut state = float::read(tensors, "state").unwrap_or_else(|| vec![T::of(0.0); units * slots * e]);
    let initial = T::of(f64::from(config.initial_mass()));
    let mut mass = float::read(tensors, "mass").unwrap_or_else(|| vec![initial; units * slots]);
    let position = match tensors.get("position").map(HostTensor::values) {
        Some(Values::I64(position)) => position[0] as u64,
        _ => 0,
    };
    let wanted = rows.of(s.queries);
    let mut o = vec![0.0; units * wanted.len() * e];

    let at = s.layout.strides(s.heads, s.queries, s.dim_k);
    let v_at = s.layout.strides(s.heads, s.queries, e);
    let g_at = s.layout.strides(s.heads, s.queries, 1);
    let o_at = s.layout.strides(s.heads, wanted.len(), e);
    let eps = T::of(f64::from(config.effective_mass_eps()));
    for unit in 0..units {
        let (b, h) = (unit / s.heads, unit % s.heads);
        let content = &mut state[unit * slots * e..][..slots * e];
        let mass = &mut mass[unit * slots..][..slots];
        let mut next = wanted.iter().copied().enumerate().peekable();
        for t in 0..s.queries {
            progress::begin(unit * s.queries + t, units * s.queries);
            let row = b * at.batch + h * at.head + t * at.token;
            let row = row..row + s.dim_k;
            let shift = if config.cape.has(h) { ((position + t as u64) % slots as u64) as usize } else { 0 };
            let turn = |address: usize| (address + slots - shift) % slots;
            let value = &v[b * v_at.batch + h * v_at.head + t * v_at.token..][..e];
            let gamma = gamma[b * g_at.batch + h * g_at.head + t * g_at.token];
            for (address, w) in access(config, &raw_k[row.clone()], &k[row.clone()]) {
                // A weight that underflows causes no write.
                if w == T::of(0.0) {
                    continue;
                }
                let slot = turn(address);
                mass[slot] = retention(config.rule, w, gamma) * mass[slot] + w;
                let eta = w / (mass[slot] + eps);
                for (content, &v) in content[slot * e..][..e].iter_mut().zip(value) {
                    *content = *content + eta * (v - *content);
                }
            }
            let Some((place, _)) = next.next_if(|&(_, wanted)| wanted == t) else { continue };
            let mut sum = vec![T::of(0.0); e];
            for (address, r) in access(config, &raw_q[row.clone()], &q[row]) {
                if r != T::of(0.0) {
                    let slot = turn(address);
                    sum.iter_mut().zip(&content[slot * e..][..e]).for_each(|(sum, &content)| *sum += r * content);
                }
            }
            let out = &mut o[b * o_at.batch + h * o_at.head + place * o_at.token..][..e];
            out.iter_mut().zip(sum).for_each(|(out, sum)| *out = sum.wide());
        }
    }

    let mut outputs = vec![("o", o)];
    if config.mode.carry {
        outputs.push(("state", float::wide(state)));
        outputs.push(("mass", float::wide(mass)));
        outputs.push(("position", vec![(position + s.queries as u64) as f64]));
    }
    if let Some((wanted, code)) = codes.filter(|_| config.codebook.is_some_and(|book| book.output)) {
        outputs.push(("code", wanted.into_iter().map(|row| code[row]).collect()));
    }
    outputs
}

/// The K addresses of a row of logits before CAPE, with their weights, the largest first. The addresses are computed in
/// f32, whatever the precision of the weights.
fn access<T: Float>(config: &Config, raw: &[f32], row: &[T]) -> Vec<(usize, T)> {
    let best = top(raw, config.choices, config.topk);
    let weights = products(row, config.choices, config.tau, &best);
    best.into_iter().map(|(address, _)| address).zip(weights).collect()
}

/// The share of its mass that a slot keeps at a write.
fn retention<T: Float>(rule: Rule, w: T, gamma: T) -> T {
    let (zero, one) = (T::of(0.0), T::of(1.0));
    match gamma.wide() {
        f64::INFINITY => return zero,
        f64::NEG_INFINITY => return one,
        _ => {}
    }
    match rule {
        Rule::Gsu if w < one => one / (one + gamma.exp() * (w / (one - w))),
        Rule::Gsu => zero,
        // 0^0 = 1.
        Rule::Pdma if gamma == zero => one,
        Rule::Pdma => (gamma * (zero - w).ln_1p()).exp(),
    }
}
