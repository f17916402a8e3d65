//! The `cpu` backend: the recurrence of [`crate::ops::cpu::recurrence`] over features of single components.

use std::ops::Range;

use super::{Config, FeatureMap, Gate, Rule};
use crate::ops::cpu::recurrence::{self, Features, Head, Recurrence, State};
use crate::ops::cpu::{self, Map, Mat, Onto, Source, product};
use crate::tensor::TensorMap;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let map: Map = match config.feature_map {
        FeatureMap::Elu1 => Some(cpu::elu1),
        FeatureMap::Relu => Some(cpu::relu),
        FeatureMap::Identity => None,
    };
    let source = |name: &str| {
        let tensor = tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        Source::new(tensor, config.qkv.layout, map)
    };
    let run = Recurrence {
        qkv: config.qkv,
        features: Components { dim_k: config.qkv.dim_k, dim_v: config.qkv.dim_v },
        causal: config.causal,
        carry: config.carry,
        segment: config.segment,
        scale: config.effective_scale(),
        norm_eps: config.normalize.then_some(config.norm_eps),
        gate_rows: config.rule == Rule::Gated(Gate::Channel),
    };
    run.run(source("q"), source("k"), tensors)
}

/// One line for people.
pub(super) fn variant(config: &Config) -> String {
    recurrence::variant::<Components>(config.segment)
}

/// A feature of every component, made as the rows are loaded.
struct Components {
    dim_k: usize,
    dim_v: usize,
}

impl Features for Components {
    /// Larger ones spend more on scores above the triangle, smaller ones more on packing for products; from 32 to 64 the
    /// time is the same within a tenth for head dims of 32 to 256.
    const CHUNK: usize = 32;

    fn width(&self) -> usize {
        self.dim_k
    }

    fn tile_len(&self) -> usize {
        self.dim_k
    }

    fn space_len(&self, _tokens: usize) -> usize {
        0
    }

    fn score_flops(&self) -> usize {
        2 * self.dim_k
    }

    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        from.tile(head.batch, head.head, tokens, space)
    }

    fn scores(&self, rows: usize, q: Mat<'_>, k: Mat<'_>, scores: &mut [f32], _space: &mut [f32]) {
        product([rows, self.dim_k, rows], q, k.t(), Onto::Nothing, scores, rows);
    }

    fn read(
        &self,
        rows: usize,
        q: Mat<'_>,
        (matrix, norm): (&[f32], &[f32]),
        out: &mut [f32],
        weights: &mut [f32],
        _space: &mut [f32],
    ) {
        product([rows, self.dim_k, self.dim_v], q, Mat::rows(matrix, self.dim_v), Onto::Nothing, out, self.dim_v);
        if !norm.is_empty() {
            for (i, weight) in weights[..rows].iter_mut().enumerate() {
                *weight = cpu::dot(q.row(i, self.dim_k), norm);
            }
        }
    }

    fn absorb(&self, rows: usize, k: Mat<'_>, v: Mat<'_>, (matrix, norm): State<'_>, _space: &mut [f32]) {
        product([self.dim_k, rows, self.dim_v], k.t(), v, Onto::Sum, matrix, self.dim_v);
        if !norm.is_empty() {
            (0..rows).for_each(|i| cpu::add(norm, k.row(i, self.dim_k)));
        }
    }
}
