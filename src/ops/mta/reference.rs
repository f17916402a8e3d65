//! The definition of multi-token attention as plain loops, one query after another. It shares no code with the kernels
//! and the `cpu` backend, which are compared with it.

use std::collections::BTreeMap;

use super::{Config, Gates, NORM_EPS, Taps};
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::{Strides, TensorMap};
use crate::verify::float::{self, Float};

/// The configuration and its inputs.
struct Inputs<'a, T> {
    config: &'a Config,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    q_tail: Vec<T>,
    q_at: Strides,
    k_at: Strides,
    v_at: Strides,
    kq_pre: Option<Vec<T>>,
    kq_post: Option<Vec<T>>,
    head_pre: Option<Vec<T>>,
    head_post: Option<Vec<T>>,
}

/// Rows of every head, by their index.
type Kept<T> = BTreeMap<isize, Vec<Vec<T>>>;

/// The requested queries of `o`, in the layout of the configuration, and if carried the last queries.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let s = &config.qkv;
    let (d, e) = (s.dim_k, s.dim_v);
    let read = |name: &str| float::read::<T>(tensors, name);
    let tails = s.batch * s.heads * config.rows_before() * d;
    let inputs = Inputs {
        config,
        q: read("q").expect("an input is missing"),
        k: read("k").expect("an input is missing"),
        v: read("v").expect("an input is missing"),
        q_tail: read("q_tail").filter(|_| config.carry).unwrap_or_else(|| vec![T::of(0.0); tails]),
        q_at: s.layout.strides(s.heads, s.queries, d),
        k_at: s.layout.strides(s.kv_heads, s.keys, d),
        v_at: s.layout.strides(s.kv_heads, s.keys, e),
        kq_pre: config.kq_pre.and_then(|_| read("kq_pre")),
        kq_post: config.kq_post.and_then(|_| read("kq_post")),
        head_pre: read("head_pre").filter(|_| config.head_pre),
        head_post: config.head_post.and_then(|_| read("head_post")),
    };
    let norm = read("norm").filter(|_| config.norm);
    let gate_weight = read("gate_weight").filter(|_| config.gate.is_some());
    let gate_bias = read("gate_bias").filter(|_| config.gate.is_some_and(|gate| gate.bias));
    let queries = rows.of(s.queries);
    let o_at = s.layout.strides(s.heads, queries.len(), e);
    let mut o = vec![0.0; s.batch * s.heads * queries.len() * e];
    for b in 0..s.batch {
        let (mut raw, mut weights) = (Kept::new(), Kept::new());
        for (at, &i) in queries.iter().enumerate() {
            let i = i as isize;
            let all = inputs.final_weights(b, i, &mut raw, &mut weights);
            for (h, row) in all.iter().enumerate() {
                let mut out = vec![T::of(0.0); e];
                for (j, &weight) in row.iter().enumerate() {
                    let v =
                        &inputs.v[b * inputs.v_at.batch + h / s.group() * inputs.v_at.head + j * inputs.v_at.token..];
                    out.iter_mut().zip(&v[..e]).for_each(|(x, &v)| *x += weight * v);
                }
                if let Some(norm) = &norm {
                    let square = float::dot(&out, &out) / T::of(e as f64) + T::of(f64::from(NORM_EPS));
                    let (root, factor) = (square.sqrt(), T::of(config.depth_factor()));
                    out.iter_mut().zip(norm).for_each(|(x, &norm)| *x = *x / root * norm * factor);
                }
                if let (Some(gate), Some(weight)) = (config.gate, &gate_weight) {
                    let sigmoid = |x: T| T::of(1.0) / (T::of(1.0) + (T::of(0.0) - x).exp());
                    let bias = |r: usize| gate_bias.as_ref().map_or(T::of(0.0), |bias| bias[r]);
                    let opened: Vec<T> = weight
                        .chunks_exact(e)
                        .enumerate()
                        .map(|(r, w)| sigmoid(float::dot(w, &out) + bias(r)))
                        .collect();
                    let of = |x: usize| if gate.gates == Gates::Scalar { opened[0] } else { opened[x] };
                    out.iter_mut().enumerate().for_each(|(x, out)| *out = *out * of(x));
                }
                let to = &mut o[b * o_at.batch + h * o_at.head + at * o_at.token..][..e];
                to.iter_mut().zip(&out).for_each(|(to, x)| *to = x.wide());
            }
        }
    }
    let mut outputs = vec![("o", o)];
    if config.rows_before() > 0 {
        outputs.push(("q_tail", inputs.last_queries()));
    }
    outputs
}

impl<T: Float> Inputs<'_, T> {
    /// Query i of a head: a row of q, or for i below 0 a row of q_tail. It exists if the row sees a key.
    fn query(&self, b: usize, h: usize, i: isize) -> &[T] {
        let (s, tail) = (&self.config.qkv, self.config.rows_before());
        match usize::try_from(i) {
            Ok(i) => &self.q[b * self.q_at.batch + h * self.q_at.head + i * self.q_at.token..][..s.dim_k],
            Err(_) => {
                let row = (i + tail as isize) as usize;
                &self.q_tail[((b * s.heads + h) * tail + row) * s.dim_k..][..s.dim_k]
            }
        }
    }

    /// Scores of row i for every head: 0 at keys that it does not see.
    fn raw(&self, b: usize, i: isize) -> Vec<Vec<T>> {
        let s = &self.config.qkv;
        let scale = T::of(f64::from(self.config.effective_scale()));
        let seen = self.config.keys_seen(i);
        let of_head = |h: usize| {
            let key = |j: usize| {
                let at = b * self.k_at.batch + h / s.group() * self.k_at.head + j * self.k_at.token;
                &self.k[at..][..s.dim_k]
            };
            let score = |j: usize| if j < seen { scale * float::dot(self.query(b, h, i), key(j)) } else { T::of(0.0) };
            (0..s.keys).map(score).collect()
        };
        (0..s.heads).map(of_head).collect()
    }

    /// Weights of row i for every head, after the softmax.
    fn weights(&self, b: usize, i: isize, raw: &mut Kept<T>) -> Vec<Vec<T>> {
        let c = self.config;
        let reach = Taps::halo(c.kq_pre).0 as isize;
        raw.retain(|row, _| *row >= i - reach);
        for row in i - reach..=i {
            raw.entry(row).or_insert_with(|| self.raw(b, row));
        }
        let mut scores = convolved(raw, i, c.kq_pre, self.kq_pre.as_deref());
        if let Some(mix) = &self.head_pre {
            let heads = c.qkv.heads;
            scores = mixed(&scores, 0..heads, |from, to| mix[to * heads + from]);
        }
        let seen = c.keys_seen(i);
        for row in &mut scores {
            let own = float::softmax(row[..seen].to_vec());
            row.fill(T::of(0.0));
            row[..seen].copy_from_slice(&own);
        }
        scores
    }

    /// The weights of the values for query i and every head, after all stages.
    fn final_weights(&self, b: usize, i: isize, raw: &mut Kept<T>, weights: &mut Kept<T>) -> Vec<Vec<T>> {
        let c = self.config;
        let reach = Taps::halo(c.kq_post).0 as isize;
        weights.retain(|row, _| *row >= i - reach);
        for row in i - reach..=i {
            weights.entry(row).or_insert_with(|| self.weights(b, row, raw));
        }
        let mut all = convolved(weights, i, c.kq_post, self.kq_post.as_deref());
        all.iter_mut().for_each(|row| row[c.keys_seen(i)..].fill(T::of(0.0)));
        let (Some(mix), Some(size)) = (&self.head_post, c.head_post) else { return all };
        let group = |g: usize| {
            let matrix = &mix[g * size * size..][..size * size];
            mixed(&all, g * size..(g + 1) * size, |from, to| matrix[from * size + to])
        };
        (0..c.qkv.heads / size).flat_map(group).collect()
    }

    /// The last T rows of q_tail followed by q, for every head.
    fn last_queries(&self) -> Vec<f64> {
        let (s, tail) = (&self.config.qkv, self.config.rows_before() as isize);
        let last = s.queries as isize - tail..s.queries as isize;
        let heads = (0..s.batch).flat_map(|b| (0..s.heads).map(move |h| (b, h)));
        heads.flat_map(|(b, h)| last.clone().flat_map(move |i| self.query(b, h, i))).map(|x| x.wide()).collect()
    }
}

/// Row i of every head after the convolution with its kernel; the row itself if there is no kernel.
fn convolved<T: Float>(rows: &Kept<T>, i: isize, taps: Option<Taps>, theta: Option<&[T]>) -> Vec<Vec<T>> {
    let (Some(Taps { queries, keys }), Some(theta)) = (taps, theta) else { return rows[&i].clone() };
    let half = (keys / 2) as isize;
    let of_head = |h: usize| {
        let cell = |j: usize| {
            let mut sum = T::of(0.0);
            for a in 0..queries {
                let row = &rows[&(i - a as isize)][h];
                for b in -half..=half {
                    let at = j as isize + b;
                    if (0..row.len() as isize).contains(&at) {
                        let tap = (queries - 1 - a) * keys + (half + b) as usize;
                        sum += theta[h * queries * keys + tap] * row[at as usize];
                    }
                }
            }
            sum
        };
        (0..rows[&i][h].len()).map(cell).collect()
    };
    (0..rows[&i].len()).map(of_head).collect()
}

/// Mixes the heads of a group: `factor(from, to)` is the factor of head `from` in head `to`, both counted within the
/// group.
fn mixed<T: Float>(rows: &[Vec<T>], group: std::ops::Range<usize>, factor: impl Fn(usize, usize) -> T) -> Vec<Vec<T>> {
    let heads = &rows[group];
    let cell = |to: usize, j: usize| {
        heads.iter().enumerate().fold(T::of(0.0), |sum, (from, row)| sum + factor(from, to) * row[j])
    };
    (0..heads.len()).map(|to| (0..heads[to].len()).map(|j| cell(to, j)).collect()).collect()
}
