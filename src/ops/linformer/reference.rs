//! The definition of Linformer as plain loops. No engine type, no cleverness: what every kernel is judged by.

use super::{Config, Pool, Projection, Sharing};
use crate::ops::Definition;
use crate::ops::float::{self, Float};
use crate::tensor::TensorMap;

/// `o`, in the layout of the configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap) -> Definition {
    let c = &config.qkv;
    let [q, k, v] = ["q", "k", "v"].map(|name| float::read::<T>(tensors, name).expect("an input is missing"));
    let [e, f] = ["e", "f"].map(|name| float::read::<T>(tensors, name));
    let (d, width) = (c.dim_k, c.dim_v);
    let q_at = c.layout.strides(c.heads, c.queries, d);
    let k_at = c.layout.strides(c.kv_heads, c.keys, d);
    let v_at = c.layout.strides(c.kv_heads, c.keys, width);
    let o_at = c.layout.strides(c.heads, c.queries, width);
    let scale = T::of(f64::from(config.effective_scale()));
    let mut o = vec![0.0; c.batch * c.heads * c.queries * width];
    for b in 0..c.batch {
        for h in 0..c.heads {
            let g = h / c.group();
            let key = |j: usize, x: usize| k[b * k_at.batch + g * k_at.head + j * k_at.token + x];
            let value = |j: usize, x: usize| v[b * v_at.batch + g * v_at.head + j * v_at.token + x];
            let keys = shorten(config, h, d, e.as_deref(), false, key);
            let values = shorten(config, h, width, f.as_deref().or(e.as_deref()), f.is_some(), value);
            for i in 0..c.queries {
                let row = &q[b * q_at.batch + h * q_at.head + i * q_at.token..][..d];
                let scores = keys.iter().map(|key| scale * float::dot(row, key)).collect();
                let weights: Vec<T> = float::softmax(scores);
                let o_row = &mut o[b * o_at.batch + h * o_at.head + i * o_at.token..][..width];
                for (x, out) in o_row.iter_mut().enumerate() {
                    *out = weights.iter().zip(&values).fold(T::of(0.0), |sum, (&w, value)| sum + w * value[x]).wide();
                }
            }
        }
    }
    vec![("o", o)]
}

/// Rows that the tokens `x(j, _)` of a head are shortened to. `second`: the matrix is f, not e.
fn shorten<T: Float>(
    config: &Config,
    head: usize,
    dim: usize,
    matrix: Option<&[T]>,
    second: bool,
    x: impl Fn(usize, usize) -> T,
) -> Vec<Vec<T>> {
    let (rank, keys) = (config.rank, config.qkv.keys);
    let row = |r: usize| {
        let column = |d: usize| match config.projection {
            Projection::Matrices { e, f } => {
                let sharing = if second { f } else { Some(e) };
                let first = if sharing == Some(Sharing::PerHead) { head * rank * keys } else { 0 };
                let weights = &matrix.expect("an input is missing")[first + r * keys..][..keys];
                weights.iter().enumerate().fold(T::of(0.0), |sum, (j, &w)| sum + w * x(j, d))
            }
            Projection::Pool(pool) => {
                let (from, to) = (r * keys / rank, ((r + 1) * keys).div_ceil(rank));
                let larger = |a: T, b: T| if b > a { b } else { a };
                match pool {
                    Pool::Mean => (from..to).fold(T::of(0.0), |sum, j| sum + x(j, d)) / T::of((to - from) as f64),
                    Pool::Max => (from + 1..to).fold(x(from, d), |top, j| larger(top, x(j, d))),
                }
            }
        };
        (0..dim).map(column).collect()
    };
    (0..rank).map(row).collect()
}
