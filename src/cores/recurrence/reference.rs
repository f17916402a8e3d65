//! The definition of the operators whose state is a matrix of features by values, computed token by token.

use crate::operator::mode::Mode;
use crate::operator::progress;
use crate::operator::qkv::Qkv;
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The running maximum of an empty state. It is below all others.
pub(crate) const NOTHING: f64 = -1e30;

fn largest<T: Float>(x: T, y: T) -> T {
    if x > y { x } else { y }
}

fn top<T: Float>(x: &[T]) -> T {
    x.iter().copied().fold(T::of(NOTHING), largest)
}

/// The log decays and strengths of every token, in the axis order of the shapes.
pub(crate) struct Gates<T> {
    /// Log decays; empty if the state does not decay.
    pub(crate) g: Vec<T>,
    /// Strengths, one per token and head of v. If there are such, each write corrects the value that the state currently
    /// returns for its key (the delta rule).
    pub(crate) beta: Option<Vec<T>>,
}

/// A recurrence as plain loops. It shares no code with the kernels and the `cpu` backend, which are compared with it.
/// Generic over f32 (to measure its own rounding error) and f64 (the exact result).
pub(crate) struct Recurrence {
    /// Shapes and axis order of the tensors `q`, `k`, `v` and `o`.
    pub(crate) qkv: Qkv,
    /// Rows of the state: features per token.
    pub(crate) width: usize,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Added to the denominator; `None` if there is no denominator.
    pub(crate) norm_eps: Option<f32>,
    /// Number of log decays `g` per token and key head: none, one, or one per row of the state.
    pub(crate) gates: usize,
    /// Set if a feature is this factor times an exponential; `features` then returns the exponents. The state is stored
    /// relative to the largest exponent of a key so far, `log_scale`, which decays with the state. The state then
    /// neither overflows nor vanishes, even if the denominator of a query is too small or too large for the float type.
    pub(crate) exponential: Option<f64>,
    /// How it runs along the sequence.
    pub(crate) mode: Mode,
}

impl Recurrence {
    /// Returns the requested tokens of `o` and, if carried, the state after the last token, in the layout of the
    /// shapes.
    /// `features(g, t, x)` computes the features of x, which is row t of q or k, for head g of k. A query without any
    /// weight gives zeros.
    pub(crate) fn outputs<T: Float>(
        &self,
        tensors: &TensorMap,
        rows: Rows<'_>,
        gates: Gates<T>,
        features: impl Fn(usize, usize, &[T]) -> Vec<T>,
    ) -> ReferenceOutputs {
        let read = |name: &str, len: usize| float::read::<T>(tensors, name).unwrap_or_else(|| vec![T::of(0.0); len]);
        let s = &self.qkv;
        let (d, e, m) = (s.dim_k, s.dim_v, self.width);
        let states = s.batch * s.kv_heads;
        let q = read("q", 0);
        let k = read("k", 0);
        let v = read("v", 0);
        let Gates { g: gate, beta } = gates;
        let mut state = read("state", states * m * e);
        let mut norm = read("norm", states * m);
        let mut running_maxes = float::read(tensors, "log_scale").unwrap_or_else(|| vec![T::of(NOTHING); states]);
        let factor = self.exponential.map(T::of);
        let wanted = rows.of(s.queries);
        let mut o = vec![0.0f64; s.batch * s.heads * wanted.len() * e];

        let q_strides = s.layout.strides(s.heads / s.shared, s.queries, d);
        let k_strides = s.layout.strides(s.kv_heads / s.shared, s.keys, d);
        let v_strides = s.layout.strides(s.kv_heads, s.keys, e);
        let g_strides = s.layout.strides(s.kv_heads, s.keys, self.gates);
        let beta_strides = s.layout.strides(s.kv_heads, s.keys, 1);
        let o_strides = s.layout.strides(s.heads, wanted.len(), e);
        let scale = T::of(f64::from(self.scale));
        let eps = self.norm_eps.map(|eps| T::of(f64::from(eps)));

        for b in 0..s.batch {
            for g in 0..s.kv_heads {
                let matrix = &mut state[(b * s.kv_heads + g) * m * e..][..m * e];
                let z = &mut norm[(b * s.kv_heads + g) * m..][..m];
                let running_max = &mut running_maxes[b * s.kv_heads + g];
                let write = |matrix: &mut [T], z: &mut [T], running_max: &mut T, t: usize| {
                    progress::begin((b * s.kv_heads + g) * s.keys + t, states * s.keys);
                    let k_row = &k[b * k_strides.batch + g / s.shared * k_strides.head + t * k_strides.token..][..d];
                    let v_row = &v[b * v_strides.batch + g * v_strides.head + t * v_strides.token..][..e];
                    let gates = &gate[b * g_strides.batch + g * g_strides.head + t * g_strides.token..][..self.gates];
                    let mut phi = features(g / s.shared, t, k_row);
                    if let Some(factor) = factor {
                        let log = gates.first().copied().unwrap_or(T::of(0.0));
                        let after = largest(largest(*running_max + log, T::of(NOTHING)), top(&phi));
                        let left = (*running_max + log - after).exp();
                        matrix.iter_mut().chain(&mut *z).for_each(|x| *x = *x * left);
                        phi.iter_mut().for_each(|x| *x = factor * (*x - after).exp());
                        *running_max = after;
                    }
                    for i in 0..m {
                        if factor.is_none()
                            && let Some(log) = gates.get(i % self.gates.max(1))
                        {
                            let left = log.exp();
                            z[i] = z[i] * left;
                            matrix[i * e..][..e].iter_mut().for_each(|x| *x = *x * left);
                        }
                    }
                    let mut row = v_row.to_vec();
                    if let Some(beta) = &beta {
                        let beta = beta[b * beta_strides.batch + g * beta_strides.head + t * beta_strides.token];
                        for (j, x) in row.iter_mut().enumerate() {
                            let answer = (0..m).fold(T::of(0.0), |acc, i| acc + phi[i] * matrix[i * e + j]);
                            *x = beta * (*x - answer);
                        }
                    }
                    for (i, &phi) in phi.iter().enumerate() {
                        z[i] += phi;
                        for j in 0..e {
                            matrix[i * e + j] += phi * row[j];
                        }
                    }
                };
                let read = |matrix: &[T], z: &[T], running_max: T, t: usize, at: usize, o: &mut [f64]| {
                    for h in g * s.group()..(g + 1) * s.group() {
                        let q_row =
                            &q[b * q_strides.batch + h / s.shared * q_strides.head + t * q_strides.token..][..d];
                        let o_row = &mut o[b * o_strides.batch + h * o_strides.head + at * o_strides.token..][..e];
                        let mut phi = features(g / s.shared, t, q_row);
                        let mut log = T::of(0.0);
                        if let Some(factor) = factor {
                            let top = top(&phi);
                            phi.iter_mut().for_each(|x| *x = factor * (*x - top).exp());
                            log = running_max + top;
                        }
                        let weight = float::dot(&phi, z);
                        for j in 0..e {
                            let mut sum = (0..m).fold(T::of(0.0), |acc, i| acc + phi[i] * matrix[i * e + j]) * scale;
                            if let Some(eps) = eps {
                                let zero = T::of(0.0);
                                let divisor =
                                    scale * weight + if eps == zero { zero } else { eps * (zero - log).exp() };
                                sum = if divisor == zero { zero } else { sum / divisor };
                            } else if factor.is_some() {
                                // Multiplied in two steps, because the whole factor may overflow.
                                let half = (T::of(0.5) * log).exp();
                                sum = sum * half * half;
                            }
                            o_row[j] = sum.wide();
                        }
                    }
                };
                if self.mode.causal {
                    let mut next = wanted.iter().copied().enumerate().peekable();
                    for t in 0..s.keys {
                        write(matrix, z, running_max, t);
                        if let Some((at, _)) = next.next_if(|&(_, wanted)| wanted == t) {
                            read(matrix, z, *running_max, t, at, &mut o);
                        }
                    }
                } else {
                    for t in 0..s.keys {
                        write(matrix, z, running_max, t);
                    }
                    for (at, &t) in wanted.iter().enumerate() {
                        read(matrix, z, *running_max, t, at, &mut o);
                    }
                }
            }
        }

        let mut outputs = vec![("o", o)];
        if self.mode.carry {
            outputs.push(("state", float::wide(state)));
            if self.norm_eps.is_some() {
                outputs.push(("norm", float::wide(norm)));
            }
            if factor.is_some() {
                outputs.push(("log_scale", float::wide(running_maxes)));
            }
        }
        outputs
    }
}
