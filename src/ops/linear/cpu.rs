//! The `cpu` backend: the recurrence of [`crate::cores::recurrence::cpu`] with maps of single elements, projections on
//! omega (performer) and maps that depend on the position (cosformer).

use crate::cpu::simd;
use std::ops::Range;

use super::{Config, FeatureMap, Gate, maps};
use crate::cores::recurrence::cpu as recurrence;
use crate::cores::recurrence::cpu::{Components, Features, Head, Recurrence, State, Tensors};
use crate::cores::recurrence::cpu_decay::Decay;
use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::simd::wide;
use crate::cpu::tiles::{Map, Source};
use crate::tensor::{HostTensor, TensorMap, Values};

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let components = Components { width: config.width(), dim_v: config.qkv.dim_v };
    match config.feature_map() {
        FeatureMap::Elu1 => run_with(config, tensors, components, Some(simd::elu1)),
        FeatureMap::Relu => run_with(config, tensors, components, Some(simd::relu)),
        FeatureMap::Identity => run_with(config, tensors, components, None),
        FeatureMap::Performer | FeatureMap::PerformerRelu => {
            run_with(config, tensors, Projected { config, omega: tensor(tensors, "omega").to_f32(), components }, None)
        }
        FeatureMap::Cosformer => {
            let position = maps::position(tensors);
            let mut outputs = run_with(config, tensors, Turned { config, position, components }, Some(simd::relu));
            if config.mode.carry {
                let after = maps::position_after(tensors, config.qkv.keys);
                outputs.insert("position", HostTensor::new([1], Values::I64(vec![after])));
            }
            outputs
        }
    }
}

fn run_with<F: Features>(config: &Config, tensors: &TensorMap, features: F, map: Map) -> TensorMap {
    let source = |name: &str, map: Map| source(config, tensors, name, map);
    let decay = decay(config, tensors);
    let run = Recurrence {
        qkv: config.qkv,
        features,
        mode: config.mode,
        scale: config.effective_scale(),
        norm_eps: config.normalize().then_some(config.norm_eps()),
        share: 1,
        transposed: false,
    };
    let own = Tensors { q: source("q", map), k: source("k", map), v: source("v", None), decay };
    run.run(own, tensors, "o", None)
}

/// How the state decays.
pub(super) fn decay<'a>(config: &Config, tensors: &'a TensorMap) -> Decay<'a> {
    match config.rule.gate() {
        None => Decay::None,
        Some(Gate::Head) => Decay::Head(source(config, tensors, "g", None)),
        Some(Gate::Channel) => Decay::Row(source(config, tensors, "g", None)),
    }
}

/// Reads a tensor along the sequence.
pub(super) fn source<'a>(config: &Config, tensors: &'a TensorMap, name: &str, map: Map) -> Source<'a> {
    Source::new(tensor(tensors, name), config.qkv.layout, map)
}

fn tensor<'a>(tensors: &'a TensorMap, name: &str) -> &'a HostTensor {
    tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"))
}

/// Describes the chunks and segments, for people.
pub(super) fn variant(config: &Config) -> String {
    recurrence::variant::<Components>(config.mode.segment)
}

/// A feature map whose tiles store all features. The products with them are those of [`Components`].
trait Tile: Sync {
    /// Computes the products with the features.
    fn components(&self) -> &Components;

    /// See [`Features::tile_len`].
    fn len(&self) -> usize;

    /// See [`Features::relative`].
    fn relative(&self) -> bool {
        false
    }

    /// See [`Features::tile`].
    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b>;
}

impl<T: Tile> Features for T {
    const CHUNK: usize = Components::CHUNK;

    fn width(&self) -> usize {
        self.components().width()
    }

    fn tile_len(&self) -> usize {
        self.len()
    }

    fn relative(&self) -> bool {
        Tile::relative(self)
    }

    /// It is stored after the features of the token.
    fn top(&self, tile: Mat<'_>, i: usize) -> f32 {
        if Tile::relative(self) { tile.row(i, self.width() + 1)[self.width()] } else { 0.0 }
    }

    fn space_len(&self, tokens: usize) -> usize {
        self.components().space_len(tokens)
    }

    fn score_flops(&self) -> usize {
        self.components().score_flops()
    }

    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        Tile::tile(self, from, head, tokens, space)
    }

    fn scores(&self, rows: usize, q: Mat<'_>, k: Mat<'_>, scores: &mut [f32], space: &mut [f32]) {
        self.components().scores(rows, q, k, scores, space);
    }

    fn read(
        &self,
        rows: usize,
        q: Mat<'_>,
        state: (&[f32], &[f32]),
        out: &mut [f32],
        weights: &mut [f32],
        space: &mut [f32],
    ) {
        self.components().read(rows, q, state, out, weights, space);
    }

    fn absorb(&self, rows: usize, k: Mat<'_>, v: Mat<'_>, state: State<'_>, space: &mut [f32]) {
        self.components().absorb(rows, k, v, state, space);
    }
}

/// Features of whole vectors: maps of their projections on omega.
struct Projected<'a> {
    config: &'a Config,
    /// `[F, D]` or `[G, F, D]`.
    omega: Vec<f32>,
    components: Components,
}

impl Tile for Projected<'_> {
    fn components(&self) -> &Components {
        &self.components
    }

    fn len(&self) -> usize {
        self.config.qkv.dim_k + self.config.width() + usize::from(Tile::relative(self))
    }

    fn relative(&self) -> bool {
        self.config.feature_map() == FeatureMap::Performer
    }

    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        let (d, f, rows) = (self.config.qkv.dim_k, self.config.width(), tokens.len());
        let (given, tile) = space.split_at_mut(rows * d);
        let given = from.tile(head.batch, head.head, tokens, given);
        let first = if self.config.omega_per_head { head.kv_head * f * d } else { 0 };
        let omega = Mat::rows(&self.omega[first..][..f * d], d);
        let width = f + usize::from(Tile::relative(self));
        let tile = &mut tile[..rows * width];
        product([rows, d, f], given, omega.t(), Onto::Nothing, tile, width);
        if Tile::relative(self) {
            let (root, factor) = ((d as f64).sqrt().recip(), (f as f64).sqrt().recip() as f32);
            for (i, row) in tile.chunks_exact_mut(width).enumerate() {
                let half = 0.5 * root as f32 * simd::dot(given.row(i, d), given.row(i, d));
                let (row, top) = row.split_at_mut(f);
                top[0] = exponentials(row, root.sqrt() as f32, half, factor);
            }
        } else {
            simd::relu(tile);
        }
        Mat::rows(tile, width)
    }
}

wide! {
    /// Replaces every x by `factor e^(scale x - half - top)`, where `top` is the largest `scale x - half`, and returns
    /// `top`.
    fn exponentials(x: &mut [f32], scale: f32, half: f32, factor: f32) -> f32 {
        let mut top = f32::NEG_INFINITY;
        for x in x.iter_mut() {
            *x = scale * *x - half;
            top = if *x > top { *x } else { top };
        }
        for x in x {
            *x = factor * simd::exp_signed(*x - top);
        }
        top
    }
}

/// Cosformer: the elements times the cosine, then times the sine, of the angle of their token.
struct Turned<'a> {
    config: &'a Config,
    /// Number of tokens before those of this run.
    position: u64,
    components: Components,
}

impl Tile for Turned<'_> {
    fn components(&self) -> &Components {
        &self.components
    }

    fn len(&self) -> usize {
        3 * self.config.qkv.dim_k
    }

    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        let (d, rows) = (self.config.qkv.dim_k, tokens.len());
        let (given, tile) = space.split_at_mut(rows * d);
        let tile = &mut tile[..rows * 2 * d];
        let first = self.position.wrapping_add(tokens.start as u64);
        let given = from.tile(head.batch, head.head, tokens, given);
        for (i, row) in tile.chunks_exact_mut(2 * d).enumerate() {
            let angle = maps::angle(first.wrapping_add(i as u64), self.config.effective_max_len());
            for (row, factor) in row.chunks_exact_mut(d).zip(angle) {
                row.copy_from_slice(given.row(i, d));
                simd::scale(row, factor as f32);
            }
        }
        Mat::rows(tile, 2 * d)
    }
}
