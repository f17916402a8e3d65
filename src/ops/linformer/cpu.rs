//! The `cpu` backend: shortens keys and values with matrix products over segments of tokens, then applies the tiled
//! attention core.

use super::{Config, Pool, Projection, Sharing};
use crate::cores::attention::Mask;
use crate::cores::attention::cpu as attention;
use crate::cores::attention::cpu::{Attend, Beside, Score, Weights};
use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::scan::Scan;
use crate::cpu::tiles::{Output, Source};
use crate::cpu::{simd, threads};
use crate::tensor::{HostTensor, Layout, TensorMap, Values};

/// Tokens per segment. The projection of each segment is summed from zero, so that results do not depend on the number
/// of threads.
const SEGMENT: usize = 1024;

/// Tokens per product, and heads that share the transposed weights of these tokens. More would exceed the cache.
const CHUNK: usize = 256;
const HEADS: usize = 4;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let s = config.qkv;
    let source = |name: &str| {
        let tensor = tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        Source::new(tensor, s.layout, None)
    };
    let (k, v) = (source("k"), source("v"));
    let (keys, values) = match config.projection {
        Projection::Matrices { e, f } => {
            let matrix = |name: &str| match tensors.get(name).map(HostTensor::values) {
                Some(Values::F32(values)) => &values[..],
                _ => panic!("tensor {name} is missing"),
            };
            match f {
                None => {
                    let [keys, values] = project(config, (matrix("e"), e), [(&k, s.dim_k), (&v, s.dim_v)]);
                    (keys, values)
                }
                Some(f) => {
                    let [keys] = project(config, (matrix("e"), e), [(&k, s.dim_k)]);
                    let [values] = project(config, (matrix("f"), f), [(&v, s.dim_v)]);
                    (keys, values)
                }
            }
        }
        Projection::Pool(by) => (pool(config, &k, s.dim_k, by), pool(config, &v, s.dim_v, by)),
    };
    let short = config.short();
    let o = Output::new(s.dtype, s.layout, [s.batch, s.heads, s.queries, s.dim_v]);
    Attend {
        shape: short,
        seen: Mask::OPEN.into(),
        lengths: None,
        score: Score::Scaled(config.effective_scale()),
        weights: Weights::Softmax,
        beside: Beside::default(),
        q: source("q"),
        k: Source::new(&keys, Layout::Bhnd, None),
        v: Source::new(&values, Layout::Bhnd, None),
    }
    .run(&o);
    [("o".to_owned(), o.finish())].into_iter().collect()
}

/// Describes the algorithm, for people.
pub(super) fn variant() -> String {
    format!("segments of {SEGMENT} tokens, then {}", attention::variant())
}

/// Projects the tokens of every head with its matrix. Returns `[B, heads, K, dim]` for each source.
///
/// The weights of some tokens are copied, because rows of whole sequences share sets of a cache. Several heads use the same copy,
/// and so do keys and values if they share a matrix.
fn project<const C: usize>(
    config: &Config,
    (matrix, sharing): (&[f32], Sharing),
    sources: [(&Source<'_>, usize); C],
) -> [HostTensor; C] {
    let (s, rank, heads) = (config.qkv, config.rank, config.projected_heads());
    let block = if sharing == Sharing::PerHead { 1 } else { HEADS.min(heads) };
    let blocks = heads.div_ceil(block);
    let dims: usize = sources.iter().map(|(_, dim)| dim).sum();
    let widest = sources.iter().map(|(_, dim)| *dim).max().unwrap_or(0);
    // For every head of a block and every source: K x dim sums.
    let state = block * dims * rank;
    let work = (2 * SEGMENT.min(s.keys) * state) as u64;
    let segments = s.keys.div_ceil(SEGMENT);
    let scan = Scan { units: s.batch * blocks, segments, state, sum_work: work, walk_work: work };
    let sum = |unit: usize, segment: usize, out: &mut [f32]| {
        let first_head = unit % blocks * block;
        let start = segment * SEGMENT;
        let end = (start + SEGMENT).min(s.keys);
        let weights = match sharing {
            Sharing::PerHead => &matrix[first_head * rank * s.keys..][..rank * s.keys],
            Sharing::AllHeads => matrix,
        };
        out.fill(0.0);
        threads::scratch([CHUNK * rank, CHUNK * widest], |[some, space]| {
            for first in (start..end).step_by(CHUNK) {
                let tokens = first..(first + CHUNK).min(end);
                for (to, row) in some.chunks_exact_mut(tokens.len()).zip(weights.chunks_exact(s.keys)) {
                    to.copy_from_slice(&row[tokens.clone()]);
                }
                let some = Mat::rows(some, tokens.len());
                let mut rest = &mut *out;
                for head in first_head..(first_head + block).min(heads) {
                    for (source, dim) in sources {
                        let (own, after) = rest.split_at_mut(dim * rank);
                        let x = source.tile(unit / blocks, head / (heads / s.kv_heads), tokens.clone(), space);
                        product([rank, tokens.len(), dim], some, x, Onto::Sum, own, dim);
                        rest = after;
                    }
                }
            }
        });
    };
    let mut sums = threads::zeros(scan.units * state);
    scan.sums(&mut sums, sum, simd::add, |_, _, _| {});
    let mut before = 0;
    sources.map(|(_, dim)| {
        let mut rows = threads::zeros(s.batch * heads * rank * dim);
        for (at, rows) in rows.chunks_exact_mut(rank * dim).enumerate() {
            let (batch, head) = (at / heads, at % heads);
            let own = (batch * blocks + head / block) * state + (head % block) * dims * rank + before * rank;
            rows.copy_from_slice(&sums[own..own + dim * rank]);
        }
        before += dim;
        HostTensor::f32([s.batch, heads, rank, dim], rows)
    })
}

/// Pools the tokens of each row. Returns `[B, G, K, dim]`.
fn pool(config: &Config, x: &Source<'_>, dim: usize, by: Pool) -> HostTensor {
    let (s, rank) = (config.qkv, config.rank);
    let mut rows = threads::zeros(s.kv_units() * rank * dim);
    threads::each_mut(&mut rows, rank * dim, (s.keys * dim) as u64, |unit, rows| {
        // Some tokens at a time, because all of them, converted from f16, would exceed the cache.
        const TOKENS: usize = 256;
        threads::scratch([TOKENS * dim], |[space]| {
            for (r, row) in rows.chunks_exact_mut(dim).enumerate() {
                let tokens = r * s.keys / rank..((r + 1) * s.keys).div_ceil(rank);
                row.fill(if by == Pool::Max { f32::NEG_INFINITY } else { 0.0 });
                for first in tokens.clone().step_by(TOKENS) {
                    let some = first..(first + TOKENS).min(tokens.end);
                    let x = x.tile(unit / s.kv_heads, unit % s.kv_heads, some.clone(), space);
                    for i in 0..some.len() {
                        match by {
                            Pool::Mean => simd::add(row, x.row(i, dim)),
                            Pool::Max => row.iter_mut().zip(x.row(i, dim)).for_each(|(top, x)| *top = top.max(*x)),
                        }
                    }
                }
                if by == Pool::Mean {
                    simd::scale(row, 1.0 / tokens.len() as f32);
                }
            }
        });
    });
    HostTensor::f32([s.batch, s.kv_heads, rank, dim], rows)
}
