//! The `cpu` backend: the recurrence of [`crate::cores::recurrence::cpu`] with maps of single elements, projections on
//! omega (performer) and maps that depend on the position (cosformer).

use crate::cpu::{channels, simd};
use std::borrow::Cow;
use std::ops::Range;

use super::{Config, Decays, FeatureMap, Gate, LENGTH_EPS, maps};
use crate::cores::recurrence::cpu as recurrence;
use crate::cores::recurrence::cpu::{Components, Features, Head, Recurrence, State, Tensors};
use crate::cores::recurrence::cpu_decay::Decay;
use crate::cpu::matrix::{Mat, Onto, product};
use crate::cpu::simd::wide;
use crate::cpu::tiles::{Map, Source};
use crate::operator::qkv::Qkv;
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
    let g = log_decays(config, tensors);
    let run = Recurrence {
        qkv: config.qkv,
        features,
        mode: config.mode,
        scale: config.effective_scale(),
        norm_eps: config.normalize().then_some(config.norm_eps()),
        transposed: false,
    };
    let own =
        Tensors { q: source("q", map), k: source("k", map), v: source("v", None), decay: decay(config, g.as_deref()) };
    run.run(own, tensors, "o", None)
}

/// How the state decays.
pub(super) fn decay<'a>(config: &Config, g: Option<&'a HostTensor>) -> Decay<'a> {
    let source = |g| Source::new(g, config.qkv.layout, None);
    match (config.rule.gate(), g) {
        (Some(Gate::Head), Some(g)) => Decay::Head(source(g)),
        (Some(Gate::Channel), Some(g)) => Decay::Row(source(g)),
        _ => Decay::None,
    }
}

/// The log decays of every token, `[B, V, N]` or `[B, V, N, D']`; `None` for a rule without decay.
pub(super) fn log_decays<'a>(config: &Config, tensors: &'a TensorMap) -> Option<Cow<'a, HostTensor>> {
    config.rule.gate()?;
    Some(match config.decays {
        Decays::PerToken => Cow::Borrowed(tensor(tensors, "g")),
        Decays::Constant => {
            let g = tensor(tensors, "g").to_f32();
            Cow::Owned(each_head(config, |_, head, row| row.fill(g[head])))
        }
        Decays::Computed { dt_bias } => {
            let (a, rate) = (source(config, tensors, "a", None), tensor(tensors, "a_log").to_f32());
            let bias = if dt_bias { tensor(tensors, "dt_bias").to_f32() } else { vec![0.0; rate.len()] };
            Cow::Owned(each_head(config, |batch, head, row| {
                let mut space = vec![0.0; row.len()];
                let a = a.tile(batch, head, 0..row.len(), &mut space);
                row.iter_mut().enumerate().for_each(|(i, x)| *x = a.row(i, 1)[0] + bias[head]);
                channels::softplus(row);
                simd::scale(row, channels::rate(rate[head]));
            }))
        }
    })
}

/// The strengths of the correction of every token, `[B, V, N]`.
pub(super) fn strengths<'a>(config: &Config, tensors: &'a TensorMap) -> Cow<'a, HostTensor> {
    if !(config.beta_for_all_heads || config.beta_sigmoid) {
        return Cow::Borrowed(tensor(tensors, "beta"));
    }
    let beta = source(config, tensors, "beta", config.beta_sigmoid.then_some(channels::sigmoid as fn(&mut [f32])));
    Cow::Owned(each_head(config, |batch, head, row| {
        let mut space = vec![0.0; row.len()];
        let beta = beta.tile(batch, if config.beta_for_all_heads { 0 } else { head }, 0..row.len(), &mut space);
        row.iter_mut().enumerate().for_each(|(i, x)| *x = beta.row(i, 1)[0]);
    }))
}

/// A tensor of one number per token and head, in f32 and the layout of the configuration. `fill(batch, head, row)` computes
/// all tokens of a head.
fn each_head(config: &Config, fill: impl Fn(usize, usize, &mut [f32])) -> HostTensor {
    let Qkv { batch, kv_heads, keys, layout, .. } = config.qkv;
    let strides = layout.strides(kv_heads, keys, 1);
    let (mut row, mut values) = (vec![0.0; keys], vec![0.0; batch * kv_heads * keys]);
    for unit in 0..batch * kv_heads {
        let (b, head) = (unit / kv_heads, unit % kv_heads);
        fill(b, head, &mut row);
        let start = b * strides.batch + head * strides.head;
        values[start..].iter_mut().step_by(strides.token).zip(&row).for_each(|(to, x)| *to = *x);
    }
    HostTensor::f32(&layout.shape(batch, kv_heads, keys, 1).dims()[..3], values)
}

/// Reads a tensor along the sequence: rows of q and k divided by their lengths, if the configuration says so.
pub(super) fn source<'a>(config: &Config, tensors: &'a TensorMap, name: &str, map: Map) -> Source<'a> {
    let unit = (config.l2norm && (name == "q" || name == "k")).then_some(LENGTH_EPS);
    Source::new(tensor(tensors, name), config.qkv.layout, map).unit(unit)
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
    fn exponentials<FUSED>(x: &mut [f32], scale: f32, half: f32, factor: f32) -> f32 {
        let mut top = f32::NEG_INFINITY;
        for x in x.iter_mut() {
            *x = simd::multiply_add::<FUSED>(scale, *x, -half);
            top = if *x > top { *x } else { top };
        }
        for x in x {
            *x = factor * simd::exp_signed::<FUSED>(*x - top);
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
