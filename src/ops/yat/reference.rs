//! The definition of attention with the Yat kernel as plain loops, one query after another. It shares no code with the
//! kernels and the `cpu` backend, which are compared with it.

use super::{Config, Kernel, Norm};
use crate::cores::attention::reference::Rule;
use crate::operator::ReferenceOutputs;
use crate::operator::Rows;
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested queries of `o`, in the layout of the configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let c = &config.qkv;
    let [mut q, mut k, v] = ["q", "k", "v"].map(|name| float::read::<T>(tensors, name).expect("an input is missing"));
    let (d, e) = (c.dim_k, c.dim_v);
    if config.kernel == Kernel::Spherical {
        q.chunks_exact_mut(d).chain(k.chunks_exact_mut(d)).for_each(to_unit_length);
    }
    let q_at = c.layout.strides(c.heads, c.queries, d);
    let k_at = c.layout.strides(c.kv_heads, c.keys, d);
    let v_at = c.layout.strides(c.kv_heads, c.keys, e);
    let queries = rows.of(c.queries);
    let o_at = c.layout.strides(c.heads, queries.len(), e);
    let [epsilon, norm_eps] = [config.epsilon, config.norm_eps].map(|x| T::of(f64::from(x)));
    let mut o = vec![0.0; c.batch * c.heads * queries.len() * e];
    let rule = Rule::new(c, config.rule(), &config.extras(), tensors);
    for b in 0..c.batch {
        for h in 0..c.heads {
            let g = h / c.group();
            for (at, &i) in queries.iter().enumerate() {
                let row = &q[b * q_at.batch + h * q_at.head + i * q_at.token..][..d];
                let seen = rule.keys(b, i);
                let scores: Vec<T> = seen
                    .iter()
                    .map(|j| {
                        let key = &k[b * k_at.batch + g * k_at.head + j * k_at.token..][..d];
                        match config.kernel {
                            Kernel::Spherical => spherical(row, key, epsilon),
                            Kernel::Euclidean => euclidean(row, key, epsilon),
                        }
                    })
                    .collect();
                let (weights, divisor) = match config.norm {
                    Norm::Kernel => {
                        let sum = scores.iter().fold(T::of(0.0), |sum, &s| sum + s) + norm_eps;
                        // If the sum of weights is zero, the divisor is 1 and the output is zero.
                        (scores, if sum == T::of(0.0) { T::of(1.0) } else { sum })
                    }
                    Norm::Softmax => (float::softmax(scores), T::of(1.0)),
                };
                let o_row = &mut o[b * o_at.batch + h * o_at.head + at * o_at.token..][..e];
                for (x, value) in o_row.iter_mut().enumerate() {
                    let column = seen.iter().map(|j| v[b * v_at.batch + g * v_at.head + j * v_at.token + x]);
                    let sum = weights.iter().zip(column).fold(T::of(0.0), |sum, (&w, v)| sum + w * v);
                    *value = (sum / divisor).wide();
                }
            }
        }
    }
    vec![("o", o)]
}

/// `x / max(|x|, 1e-12)`.
fn to_unit_length<T: Float>(x: &mut [T]) {
    let (length, least) = (float::dot(x, x).sqrt(), T::of(1e-12));
    let length = if length < least { least } else { length };
    x.iter_mut().for_each(|x| *x = *x / length);
}

/// `x^2 / (2 + epsilon - 2 x)`, where x is the product of two unit vectors.
fn spherical<T: Float>(q: &[T], k: &[T], epsilon: T) -> T {
    let (x, two) = (float::dot(q, k), T::of(2.0));
    x * x / (two + epsilon - two * x)
}

/// `(q . k)^2 / (|q|^2 + |k|^2 - 2 q . k + epsilon)`.
fn euclidean<T: Float>(q: &[T], k: &[T], epsilon: T) -> T {
    let x = float::dot(q, k);
    x * x / (float::dot(q, q) + float::dot(k, k) - T::of(2.0) * x + epsilon)
}
