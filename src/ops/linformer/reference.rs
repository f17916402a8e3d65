//! The definition of Linformer as plain loops. It shares no code with the kernels and the `cpu` backend, which are
//! compared with it.

use super::{Config, Pool, Projection, Sharing};
use crate::operator::ReferenceOutputs;
use crate::operator::Rows;
use crate::operator::progress;
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested queries of `o`, in the layout of the configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let c = &config.qkv;
    let [q, k, v] = ["q", "k", "v"].map(|name| float::read::<T>(tensors, name).expect("an input is missing"));
    let [e, f] = ["e", "f"].map(|name| float::read::<T>(tensors, name));
    let (d, width) = (c.dim_k, c.dim_v);
    let q_at = c.layout.strides(c.heads, c.queries, d);
    let k_at = c.layout.strides(c.kv_heads, c.keys, d);
    let v_at = c.layout.strides(c.kv_heads, c.keys, width);
    let queries = rows.of(c.queries);
    let o_at = c.layout.strides(c.heads, queries.len(), width);
    let scale = T::of(f64::from(config.effective_scale()));
    let mut o = vec![0.0; c.batch * c.heads * queries.len() * width];
    for b in 0..c.batch {
        for h in 0..c.heads {
            progress::begin(b * c.heads + h, c.batch * c.heads);
            let g = h / c.group();
            let key = |j: usize| &k[b * k_at.batch + g * k_at.head + j * k_at.token..][..d];
            let value = |j: usize| &v[b * v_at.batch + g * v_at.head + j * v_at.token..][..width];
            let keys = shorten(config, h, e.as_deref(), false, key);
            let values = shorten(config, h, f.as_deref().or(e.as_deref()), f.is_some(), value);
            for (at, &i) in queries.iter().enumerate() {
                let row = &q[b * q_at.batch + h * q_at.head + i * q_at.token..][..d];
                let scores = keys.iter().map(|key| scale * float::dot(row, key)).collect();
                let weights: Vec<T> = float::softmax(scores);
                let o_row = &mut o[b * o_at.batch + h * o_at.head + at * o_at.token..][..width];
                for (x, out) in o_row.iter_mut().enumerate() {
                    *out = weights.iter().zip(&values).fold(T::of(0.0), |sum, (&w, value)| sum + w * value[x]).wide();
                }
            }
        }
    }
    vec![("o", o)]
}

/// The rows that the tokens `x(j)` of a head are shortened to. If `second`, the matrix is f instead of e.
fn shorten<'a, T: Float + 'a>(
    config: &Config,
    head: usize,
    matrix: Option<&[T]>,
    second: bool,
    x: impl Fn(usize) -> &'a [T],
) -> Vec<Vec<T>> {
    let (rank, keys) = (config.rank, config.qkv.keys);
    let row = |r: usize| {
        let (from, to) = (r * keys / rank, ((r + 1) * keys).div_ceil(rank));
        match config.projection {
            Projection::Matrices { e, f } => {
                let sharing = if second { f } else { Some(e) };
                let first = if sharing == Some(Sharing::PerHead) { head * rank * keys } else { 0 };
                let weights = &matrix.expect("an input is missing")[first + r * keys..][..keys];
                let zero = vec![T::of(0.0); x(0).len()];
                (0..keys).fold(zero, |row, j| zip(row, x(j), |sum, x| sum + weights[j] * x))
            }
            Projection::Pool(Pool::Mean) => {
                let zero = vec![T::of(0.0); x(0).len()];
                let mut row = (from..to).fold(zero, |row, j| zip(row, x(j), |sum, x| sum + x));
                row.iter_mut().for_each(|x| *x = *x / T::of((to - from) as f64));
                row
            }
            Projection::Pool(Pool::Max) => {
                (from + 1..to).fold(x(from).to_vec(), |row, j| zip(row, x(j), |top, x| if x > top { x } else { top }))
            }
        }
    };
    (0..rank).map(row).collect()
}

fn zip<T: Float>(mut row: Vec<T>, with: &[T], f: impl Fn(T, T) -> T) -> Vec<T> {
    row.iter_mut().zip(with).for_each(|(a, &b)| *a = f(*a, b));
    row
}
