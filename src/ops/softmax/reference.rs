//! The definition of softmax attention as plain loops, one query after another. It shares no code with the kernels and
//! the `cpu` backend, which are compared with it.

use super::{Config, Pairs};
use crate::cores::attention::reference::Rule;
use crate::operator::ReferenceOutputs;
use crate::operator::Rows;
use crate::operator::qkv::Qkv;
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested queries of `o` in the layout of the configuration, and of `lse` if it is written.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let c = &config.qkv;
    let [q, k, v] = ["q", "k", "v"].map(|name| float::read::<T>(tensors, name).expect("an input is missing"));
    let (d, e) = (c.dim_k, c.dim_v);
    let q_at = c.layout.strides(c.heads, c.queries, d);
    let k_at = c.layout.strides(c.kv_heads, c.keys, d);
    let v_at = c.layout.strides(c.kv_heads, c.keys, e);
    let queries = rows.of(c.queries);
    let o_at = c.layout.strides(c.heads, queries.len(), e);
    let scale = T::of(f64::from(config.effective_scale()));
    let cap = config.softcap.map(|cap| T::of(f64::from(cap)));
    let of_pairs = |name, pairs: Option<Pairs>| Some((float::read::<T>(tensors, name)?, pairs?));
    let (bias, mask) = (of_pairs("bias", config.bias), of_pairs("mask", config.mask));
    let sinks = float::read::<T>(tensors, "sink").filter(|_| config.sink);
    let rule = Rule::new(c, config.rule(), &config.extras(), tensors);
    let mut o = vec![0.0; c.batch * c.heads * queries.len() * e];
    let mut lse = Vec::new();
    for b in 0..c.batch {
        for h in 0..c.heads {
            let g = h / c.group();
            let sink = sinks.as_ref().map(|sinks| sinks[h]);
            for (at, &i) in queries.iter().enumerate() {
                let row = &q[b * q_at.batch + h * q_at.head + i * q_at.token..][..d];
                let (mut seen, mut scores) = (Vec::new(), Vec::new());
                for j in rule.keys(b, i) {
                    let key = &k[b * k_at.batch + g * k_at.head + j * k_at.token..][..d];
                    let score = scale * float::dot(row, key);
                    let score = cap.map_or(score, |cap| cap * (score / cap).tanh());
                    let added = bias.as_ref().map_or(T::of(0.0), |bias| pair(c, bias, [b, h, i, j]));
                    let shown = mask.as_ref().is_none_or(|mask| pair(c, mask, [b, h, i, j]).wide() != 0.0);
                    if shown && added.wide() != f64::NEG_INFINITY {
                        seen.push(j);
                        scores.push(score + added);
                    }
                }
                let (weights, log) = softmax(scores, sink);
                lse.push(log);
                let o_row = &mut o[b * o_at.batch + h * o_at.head + at * o_at.token..][..e];
                for (x, value) in o_row.iter_mut().enumerate() {
                    let column = seen.iter().map(|j| v[b * v_at.batch + g * v_at.head + j * v_at.token + x]);
                    *value = weights.iter().zip(column).fold(T::of(0.0), |sum, (&w, v)| sum + w * v).wide();
                }
            }
        }
    }
    let mut outputs = vec![("o", o)];
    outputs.extend(config.lse.then_some(("lse", lse)));
    outputs
}

/// The number of a pair in a tensor `[1|B, 1|H, N, M]`.
fn pair<T: Float>(c: &Qkv, (values, pairs): &(Vec<T>, Pairs), [b, h, i, j]: [usize; 4]) -> T {
    let (b, h) = (if pairs.batch { b } else { 0 }, if pairs.heads { h } else { 0 });
    let heads = if pairs.heads { c.heads } else { 1 };
    values[((b * heads + h) * c.queries + i) * c.keys + j]
}

/// The weights of these scores, and the logarithm of the sum of exponentials. A sink has a weight too, which no value gets.
fn softmax<T: Float>(mut scores: Vec<T>, sink: Option<T>) -> (Vec<T>, f64) {
    let all = || scores.iter().copied().chain(sink);
    let Some(top) = all().reduce(|top, x| if top >= x { top } else { x }) else { return (scores, f64::NEG_INFINITY) };
    let sum = all().fold(T::of(0.0), |sum, x| sum + (x - top).exp());
    scores.iter_mut().for_each(|x| *x = (*x - top).exp() / sum);
    (scores, (top + sum.ln()).wide())
}
