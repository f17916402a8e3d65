//! The definition of softmax attention as plain loops, one query after another. It shares no code with the kernels and
//! the `cpu` backend, which are compared with it.

use super::Config;
use crate::cores::attention::key_counts;
use crate::operator::ReferenceOutputs;
use crate::operator::Rows;
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested queries of `o`, in the layout of the configuration.
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
    let mut o = vec![0.0; c.batch * c.heads * queries.len() * e];
    let counts = config.lengths.then(|| key_counts(c, tensors));
    for b in 0..c.batch {
        let keys = counts.as_ref().map_or(c.keys, |counts| counts[b]);
        for h in 0..c.heads {
            let g = h / c.group();
            for (at, &i) in queries.iter().enumerate() {
                let row = &q[b * q_at.batch + h * q_at.head + i * q_at.token..][..d];
                // Query i sees key j if j <= i + M - N (of M keys that there are), and with a window if j > i + M - N - W.
                let end = if config.causal { (i + 1 + keys).saturating_sub(c.queries) } else { keys };
                let start = end - config.window.unwrap_or(end).min(end);
                let scores = (start..end)
                    .map(|j| {
                        let key = &k[b * k_at.batch + g * k_at.head + j * k_at.token..][..d];
                        scale * float::dot(row, key)
                    })
                    .collect();
                let weights: Vec<T> = float::softmax(scores);
                let o_row = &mut o[b * o_at.batch + h * o_at.head + at * o_at.token..][..e];
                for (x, value) in o_row.iter_mut().enumerate() {
                    let column = (start..end).map(|j| v[b * v_at.batch + g * v_at.head + j * v_at.token + x]);
                    *value = weights.iter().zip(column).fold(T::of(0.0), |sum, (&w, v)| sum + w * v).wide();
                }
            }
        }
    }
    vec![("o", o)]
}
