//! The `cpu` backend: keys and values shortened by matrix products over segments of tokens, then the tiled softmax core.

use super::{Config, Pool, Projection, Sharing};
use crate::ops::attend::Mask;
use crate::ops::cpu::attend::{self, Attend};
use crate::ops::cpu::{self, Mat, Onto, Output, Scan, Source, product};
use crate::tensor::{HostTensor, Layout, TensorMap, Values};

/// Tokens whose projection is summed from zero, whoever computes it: then bits do not depend on the number of threads.
const SEGMENT: usize = 4096;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
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
                Some(Values::F32(values)) => values.as_slice(),
                _ => panic!("tensor {name} is missing"),
            };
            let second = f.map_or((matrix("e"), e), |f| (matrix("f"), f));
            (project(config, &k, s.dim_k, (matrix("e"), e)), project(config, &v, s.dim_v, second))
        }
        Projection::Pool(by) => (pool(config, &k, s.dim_k, by), pool(config, &v, s.dim_v, by)),
    };
    let short = config.short();
    let o = Output::new(s.dtype, s.layout, [s.batch, s.heads, s.queries, s.dim_v]);
    Attend {
        shape: short,
        mask: Mask { causal: false, window: None },
        scale: config.effective_scale(),
        q: source("q"),
        k: Source::new(&keys, Layout::Bhnd, None),
        v: Source::new(&values, Layout::Bhnd, None),
    }
    .run(&o);
    [("o".to_owned(), o.finish())].into_iter().collect()
}

/// One line for people.
pub(super) fn variant() -> String {
    format!("segments of {SEGMENT} tokens, then {}", attend::variant())
}

/// `[B, heads, K, dim]`: every head's tokens times its matrix.
fn project(config: &Config, x: &Source<'_>, dim: usize, (matrix, sharing): (&[f32], Sharing)) -> HostTensor {
    let (s, rank, heads) = (config.qkv, config.rank, config.projected_heads());
    let mut rows = vec![0.0; s.batch * heads * rank * dim];
    let work = (2 * rank * SEGMENT.min(s.keys) * dim) as u64;
    let scan = Scan {
        units: s.batch * heads,
        segments: s.keys.div_ceil(SEGMENT),
        state: rank * dim,
        sum_work: work,
        walk_work: work,
    };
    let sum = |unit: usize, segment: usize, out: &mut [f32]| {
        let head = unit % heads;
        let tokens = segment * SEGMENT..((segment + 1) * SEGMENT).min(s.keys);
        let first = if sharing == Sharing::PerHead { head * rank * s.keys } else { 0 };
        let weights = Mat::rows(&matrix[first + tokens.start..first + (rank - 1) * s.keys + tokens.end], s.keys);
        cpu::scratch([tokens.len() * dim], |[space]| {
            let x = x.tile(unit / heads, head / (heads / s.kv_heads), tokens.clone(), space);
            product([rank, tokens.len(), dim], weights, x, Onto::Nothing, out, dim);
        });
    };
    scan.sums(&mut rows, sum, |_, _, _| {});
    HostTensor::f32([s.batch, heads, rank, dim], rows)
}

/// `[B, G, K, dim]`: every row pools its tokens.
fn pool(config: &Config, x: &Source<'_>, dim: usize, by: Pool) -> HostTensor {
    let (s, rank) = (config.qkv, config.rank);
    let mut rows = vec![0.0; s.kv_units() * rank * dim];
    cpu::each_mut(&mut rows, rank * dim, (s.keys * dim) as u64, |unit, rows| {
        // Some tokens at a time: converted from f16, all of them would leave the cache.
        const TOKENS: usize = 256;
        cpu::scratch([TOKENS * dim], |[space]| {
            for (r, row) in rows.chunks_exact_mut(dim).enumerate() {
                let tokens = r * s.keys / rank..((r + 1) * s.keys).div_ceil(rank);
                row.fill(if by == Pool::Max { f32::NEG_INFINITY } else { 0.0 });
                for first in tokens.clone().step_by(TOKENS) {
                    let some = first..(first + TOKENS).min(tokens.end);
                    let x = x.tile(unit / s.kv_heads, unit % s.kv_heads, some.clone(), space);
                    for i in 0..some.len() {
                        match by {
                            Pool::Mean => cpu::add(row, x.row(i, dim)),
                            Pool::Max => row.iter_mut().zip(x.row(i, dim)).for_each(|(top, x)| *top = top.max(*x)),
                        }
                    }
                }
                if by == Pool::Mean {
                    cpu::scale(row, 1.0 / tokens.len() as f32);
                }
            }
        });
    });
    HostTensor::f32([s.batch, s.kv_heads, rank, dim], rows)
}
