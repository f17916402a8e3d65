//! What operators that walk the sequence with a state of features times values have in common: which requests make no
//! sense, and the definition itself, token after token.

use super::float::{self, Float};
use super::{Definition, Flags, Qkv, Rows};
use crate::error::Error;
use crate::tensor::TensorMap;

/// Refuses lengths and settings of the walk that do not go together.
///
/// # Errors
/// One sentence naming the tensor or setting.
pub(crate) fn check_walk(
    op: &'static str,
    queries: usize,
    keys: usize,
    causal: bool,
    carry: bool,
    decode: bool,
    segment: Option<usize>,
) -> Result<(), Error> {
    if causal && queries != keys {
        let expected = format!("M = N = {queries} for the causal form");
        return Err(Error::tensor(op, "k", expected, format!("M = {keys}")));
    }
    if !causal && carry {
        return Err(Error::setting(op, "carry", "none for the non-causal form", "a state"));
    }
    if decode && !(causal && carry) {
        return Err(Error::setting(op, "decode", "a causal form with a carried state", "none"));
    }
    if decode && queries != 1 {
        return Err(Error::tensor(op, "q", "N = 1 to decode", format!("N = {queries}")));
    }
    if segment == Some(0) {
        return Err(Error::setting(op, "segment", "1 or more", "0"));
    }
    if decode && segment.is_some() {
        return Err(Error::setting(op, "segment", "none to decode one token", "a length"));
    }
    Ok(())
}

/// Refuses `--segment` where one token is decoded.
///
/// # Errors
/// [`Error::Usage`].
pub(crate) fn check_decode_flags(op: &str, flags: &Flags) -> Result<(), Error> {
    if flags.switch("decode") == Some(true) && flags.word("segment").is_some() {
        return Err(Error::Usage(format!("{op}: --decode takes one token and has no --segment")));
    }
    Ok(())
}

/// Segments of so many tokens: enough of them to fill the machine (`wanted`), and more where one would be too long
/// (`longest`), but of states whose traffic stays below a tenth of that of their tokens. Where the tokens are too few for that,
/// below half of it until the machine is half full: idle cores cost more. (On an H200 `linear` took 722 us for 4096 tokens of
/// 16 heads of 64 in 5 segments, about 240 us in 21.) `state` and `token` are the bytes that a segment's state and a token move.
pub(crate) fn segments(tokens: usize, state: usize, token: usize, wanted: usize, longest: usize) -> usize {
    let shortest = |share: usize| (share * state).div_ceil(token).next_multiple_of(64);
    let longest = longest.max(shortest(10));
    let many = (tokens / shortest(10)).clamp(1, wanted.max(tokens.div_ceil(longest)));
    many.max((tokens / shortest(2)).min(wanted.div_ceil(2)))
}

/// The level of a state that holds nothing yet: below all others.
pub(crate) const NOTHING: f64 = -1e30;

fn largest<T: Float>(x: T, y: T) -> T {
    if x > y { x } else { y }
}

fn top<T: Float>(x: &[T]) -> T {
    x.iter().copied().fold(T::of(NOTHING), largest)
}

/// A walk as plain loops. No engine type, no cleverness: what every kernel is judged by. Generic over f32 (what error the
/// definition itself makes) and f64 (the truth).
pub(crate) struct Walk {
    /// Shapes and axis order of the tensors `q`, `k`, `v` and `o`.
    pub(crate) qkv: Qkv,
    /// Rows of the state: features of a token.
    pub(crate) width: usize,
    /// Whether query i sees only keys up to i.
    pub(crate) causal: bool,
    /// Whether the outputs have the state.
    pub(crate) carry: bool,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Added to the denominator; `None`: no denominator.
    pub(crate) norm_eps: Option<f32>,
    /// Log decays `g` of a token and key head: none, one, or one a row.
    pub(crate) gates: usize,
    /// Of features that are so many times an exponential, and given by its exponent. The state is then relative to the largest
    /// exponent of a key so far, which decays as the state does: that is `log_scale`. None of it is a number too small or
    /// too large, and what a query is divided by need not be one.
    pub(crate) exponential: Option<f64>,
}

impl Walk {
    /// The wanted tokens of `o` and, when carried, `state` and `norm` after the last, in the layout of the shapes. Where
    /// `tensors` have strengths `beta` of a token and key head, writes follow the delta rule. `features(g, t, x)` are those of
    /// row t of q or k, as key head g has them. A query without any weight gives zeros.
    pub(crate) fn outputs<T: Float>(
        &self,
        tensors: &TensorMap,
        rows: Rows<'_>,
        features: impl Fn(usize, usize, &[T]) -> Vec<T>,
    ) -> Definition {
        let read = |name: &str, len: usize| float::read::<T>(tensors, name).unwrap_or_else(|| vec![T::of(0.0); len]);
        let s = &self.qkv;
        let (d, e, m) = (s.dim_k, s.dim_v, self.width);
        let states = s.batch * s.kv_heads;
        let q = read("q", 0);
        let k = read("k", 0);
        let v = read("v", 0);
        let gate = read("g", 0);
        // Where there are strengths, writes put right what the state answers.
        let beta = float::read::<T>(tensors, "beta");
        let mut state = read("state", states * m * e);
        let mut norm = read("norm", states * m);
        let mut levels = float::read(tensors, "log_scale").unwrap_or_else(|| vec![T::of(NOTHING); states]);
        let factor = self.exponential.map(T::of);
        let wanted = rows.of(s.queries);
        let mut o = vec![0.0f64; s.batch * s.heads * wanted.len() * e];

        let q_strides = s.layout.strides(s.heads, s.queries, d);
        let k_strides = s.layout.strides(s.kv_heads, s.keys, d);
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
                let level = &mut levels[b * s.kv_heads + g];
                let write = |matrix: &mut [T], z: &mut [T], level: &mut T, t: usize| {
                    let k_row = &k[b * k_strides.batch + g * k_strides.head + t * k_strides.token..][..d];
                    let v_row = &v[b * v_strides.batch + g * v_strides.head + t * v_strides.token..][..e];
                    let gates = &gate[b * g_strides.batch + g * g_strides.head + t * g_strides.token..][..self.gates];
                    let mut phi = features(g, t, k_row);
                    if let Some(factor) = factor {
                        let log = gates.first().copied().unwrap_or(T::of(0.0));
                        let after = largest(largest(*level + log, T::of(NOTHING)), top(&phi));
                        let left = (*level + log - after).exp();
                        matrix.iter_mut().chain(&mut *z).for_each(|x| *x = *x * left);
                        phi.iter_mut().for_each(|x| *x = factor * (*x - after).exp());
                        *level = after;
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
                let read = |matrix: &[T], z: &[T], level: T, t: usize, at: usize, o: &mut [f64]| {
                    for h in g * s.group()..(g + 1) * s.group() {
                        let q_row = &q[b * q_strides.batch + h * q_strides.head + t * q_strides.token..][..d];
                        let o_row = &mut o[b * o_strides.batch + h * o_strides.head + at * o_strides.token..][..e];
                        let mut phi = features(g, t, q_row);
                        let mut log = T::of(0.0);
                        if let Some(factor) = factor {
                            let top = top(&phi);
                            phi.iter_mut().for_each(|x| *x = factor * (*x - top).exp());
                            log = level + top;
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
                                // In two steps: the factor alone may be beyond all numbers.
                                let half = (T::of(0.5) * log).exp();
                                sum = sum * half * half;
                            }
                            o_row[j] = sum.wide();
                        }
                    }
                };
                if self.causal {
                    let mut next = wanted.iter().copied().enumerate().peekable();
                    for t in 0..s.keys {
                        write(matrix, z, level, t);
                        if let Some((at, _)) = next.next_if(|&(_, wanted)| wanted == t) {
                            read(matrix, z, *level, t, at, &mut o);
                        }
                    }
                } else {
                    for t in 0..s.keys {
                        write(matrix, z, level, t);
                    }
                    for (at, &t) in wanted.iter().enumerate() {
                        read(matrix, z, *level, t, at, &mut o);
                    }
                }
            }
        }

        let mut outputs = vec![("o", o)];
        if self.carry {
            outputs.push(("state", float::wide(state)));
            if self.norm_eps.is_some() {
                outputs.push(("norm", float::wide(norm)));
            }
            if factor.is_some() {
                outputs.push(("log_scale", float::wide(levels)));
            }
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::segments;

    #[test]
    fn segments_fill_the_machine_as_far_as_their_states_allow() {
        let of = |tokens, wanted, longest| segments(tokens, 1000, 10, wanted, longest);
        // A tenth: 1024 tokens or more; a half: 256.
        assert_eq!(of(100_000, 1, usize::MAX), 1, "full already");
        assert_eq!(of(100_000, 64, usize::MAX), 64, "enough for all");
        assert_eq!(of(100_000, 1000, usize::MAX), 390, "as short as half the traffic allows");
        assert_eq!(of(10_000, 64, usize::MAX), 32, "half full");
        assert_eq!((of(255, 64, usize::MAX), of(512, 64, usize::MAX)), (1, 2));
        assert_eq!(of(100_000, 1, 10_000), 10, "a dispatch would take too long");
        assert_eq!(of(100_000, 1, 10), 97, "longer than asked, for the traffic");
    }
}
