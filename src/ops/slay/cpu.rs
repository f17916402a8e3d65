//! The `cpu` backend: the recurrence of [`crate::cores::recurrence::cpu`]. Scores are computed as products of the
//! scores of the two maps, `Psi(q) . Psi(k) = (A(q) . A(k)) (E(q) . E(k))`. The features themselves are computed only
//! to multiply them with the state, for some of its rows at a time.

use crate::cpu::simd;
use std::ops::Range;

use super::{Config, Poly, poly, quadrature};
use crate::cores::recurrence::cpu as recurrence;
use crate::cores::recurrence::cpu::{Features, Head, Recurrence, State, Tensors};
use crate::cores::recurrence::cpu_decay::Decay;
use crate::cpu::matrix::{Mat, Onto, product, product_to_diagonal};
use crate::cpu::simd::wide;
use crate::cpu::tiles::Source;
use crate::tensor::{HostTensor, TensorMap};

/// Approximate number of features of a token that are computed at a time. Together with their rows of the state, they
/// stay in a second-level cache.
const BLOCK: usize = 512;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let source = |name: &str| Source::new(tensor(tensors, name), config.qkv.layout, None);
    let nodes = quadrature::factors(config).into_iter().map(|node| node.map(|x| x as f32)).collect();
    let weight = config.poly.weight().map_or_else(Vec::new, |name| tensor(tensors, name).to_f32());
    let whitening = match config.poly {
        Poly::Nystrom => poly::whitening(&weight, config.qkv.dim_k),
        _ => Vec::new(),
    };
    let whitening = whitening.into_iter().map(|x| x as f32).collect();
    let features = Fused { config, weight, whitening, omega: omega(config, tensors), nodes };
    let run = Recurrence {
        qkv: config.qkv,
        features,
        mode: config.mode,
        scale: 1.0,
        norm_eps: Some(config.norm_eps),
        transposed: false,
    };
    let own = Tensors { q: source("q"), k: source("k"), v: source("v"), decay: Decay::None };
    run.run(own, tensors, "o", None)
}

fn tensor<'a>(tensors: &'a TensorMap, name: &str) -> &'a HostTensor {
    tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"))
}

/// Omega of all nodes, grouped by key head.
fn omega(config: &Config, tensors: &TensorMap) -> Vec<f32> {
    let omega = tensor(tensors, "omega").to_f32();
    let (groups, len) = (config.qkv.key_heads(), config.features * config.qkv.dim_k);
    (0..groups).flat_map(|g| omega.chunks_exact(len).skip(g).step_by(groups).flatten()).copied().collect()
}

/// Describes the chunks and segments, for people.
pub(super) fn variant(config: &Config) -> String {
    recurrence::variant::<Fused<'_>>(config.mode.segment)
}

/// The two maps. A row of a tile is A, followed by E in the order (r, f).
struct Fused<'a> {
    config: &'a Config,
    /// The tensor of the map for the square: `[P, D]` or `[2, P, D]`; empty for a map without one.
    weight: Vec<f32>,
    /// `[P, P]` for `nystrom`, otherwise empty.
    whitening: Vec<f32>,
    /// `[G, R F, D]`.
    omega: Vec<f32>,
    /// See [`quadrature::factors`].
    nodes: Vec<[f32; 3]>,
}

impl Fused<'_> {
    /// Computes the map for the square of one unit vector. `along` are its products with the rows of the map's tensor.
    fn square(&self, square: &mut [f32], unit: &[f32], along: &[f32]) {
        let p = square.len();
        let factor = 1.0 / (p as f32).sqrt();
        match self.config.poly {
            Poly::Anchor => products(square, along, along, factor),
            Poly::Exact => pairs(square, unit),
            Poly::Nystrom => whitened(square, along, &self.whitening),
            Poly::Maclaurin => products(square, &along[..p], &along[p..], factor),
            Poly::TensorSketch => convolution(square, &along[..p], &along[p..]),
            Poly::Laplace | Poly::Hadamard => square.fill(if unit.iter().all(|&x| x == 0.0) { 0.0 } else { 1.0 }),
        }
    }

    /// The widths of A and E: P and R F.
    fn widths(&self) -> [usize; 2] {
        [self.config.poly_width(), self.config.nodes * self.config.features]
    }

    /// Number of pairs of a node and an entry of A whose features are computed at a time.
    fn pairs(&self) -> usize {
        let all = self.config.nodes * self.config.poly_width();
        (BLOCK / self.config.features).clamp(1, all)
    }

    /// Calls `f` for each block of rows of the state, with the features of all tokens for these rows.
    fn blocks(&self, rows: usize, tile: Mat<'_>, space: &mut [f32], mut f: impl FnMut(Range<usize>, &[f32])) {
        let ([p, rf], features) = (self.widths(), self.config.features);
        let all = self.config.nodes * p;
        for first in (0..all).step_by(self.pairs()) {
            let pairs = first..(first + self.pairs()).min(all);
            let width = pairs.len() * features;
            for (i, row) in space.chunks_exact_mut(width).take(rows).enumerate() {
                let (square, exponentials) = tile.row(i, p + rf).split_at(p);
                expand(row, square, exponentials, pairs.start, features);
            }
            f(pairs.start * features..pairs.end * features, &space[..rows * width]);
        }
    }
}

impl Features for Fused<'_> {
    /// Scores cost little here and products with the state much, so chunks are larger than those of `linear`.
    const CHUNK: usize = 64;

    fn width(&self) -> usize {
        self.config.width()
    }

    fn tile_len(&self) -> usize {
        let [p, rf] = self.widths();
        let d = self.config.qkv.dim_k;
        2 * d + self.weight.len() / d + p + rf
    }

    fn space_len(&self, tokens: usize) -> usize {
        tokens * tokens.max(self.pairs() * self.config.features)
    }

    fn score_flops(&self) -> usize {
        let [p, rf] = self.widths();
        2 * (p + rf)
    }

    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        let d = self.config.qkv.dim_k;
        let ([p, rf], rows) = (self.widths(), tokens.len());
        let (given, rest) = space.split_at_mut(rows * d);
        let (units, rest) = rest.split_at_mut(rows * d);
        let taken = self.weight.len() / d;
        let (along, tile) = rest.split_at_mut(rows * taken);
        let given = from.tile(head.batch, head.head, tokens, given);
        for (i, unit) in units.chunks_exact_mut(d).enumerate() {
            let row = given.row(i, d);
            let norm = simd::dot(row, row).sqrt().max(1e-12);
            unit.iter_mut().zip(row).for_each(|(u, x)| *u = x / norm);
        }
        let omega = Mat::rows(&self.omega[head.kv_head * rf * d..][..rf * d], d);
        product([rows, d, rf], Mat::rows(units, d), omega.t(), Onto::Nothing, &mut tile[p..], p + rf);
        if taken > 0 {
            let weight = Mat::rows(&self.weight, d);
            product([rows, d, taken], Mat::rows(units, d), weight.t(), Onto::Nothing, along, taken);
        }
        for (i, row) in tile.chunks_exact_mut(p + rf).take(rows).enumerate() {
            let (square, exponentials) = row.split_at_mut(p);
            self.square(square, &units[i * d..][..d], &along[i * taken..][..taken]);
            for (row, [factor, root, s]) in exponentials.chunks_exact_mut(self.config.features).zip(&self.nodes) {
                if self.config.poly == Poly::Hadamard {
                    squared_exponential(row, *factor, *root, *s);
                } else {
                    exponential(row, *factor, *root, *s);
                }
            }
        }
        Mat::rows(&tile[..rows * (p + rf)], p + rf)
    }

    fn scores(&self, rows: usize, q: Mat<'_>, k: Mat<'_>, scores: &mut [f32], space: &mut [f32]) {
        let [p, rf] = self.widths();
        product_to_diagonal([rows, p, rows], q, k.t(), scores, rows);
        product_to_diagonal([rows, rf, rows], q.skip_cols(p), k.skip_cols(p).t(), space, rows);
        simd::multiply(&mut scores[..rows * rows], &space[..rows * rows]);
    }

    fn read(
        &self,
        rows: usize,
        q: Mat<'_>,
        (matrix, norm): (&[f32], &[f32]),
        out: &mut [f32],
        weights: &mut [f32],
        space: &mut [f32],
    ) {
        let e = self.config.qkv.dim_v;
        weights[..rows].fill(0.0);
        self.blocks(rows, q, space, |at, psi| {
            let onto = if at.start == 0 { Onto::Nothing } else { Onto::Sum };
            let psi_rows = Mat::rows(psi, at.len());
            product([rows, at.len(), e], psi_rows, Mat::rows(&matrix[at.start * e..at.end * e], e), onto, out, e);
            for (weight, psi) in weights.iter_mut().zip(psi.chunks_exact(at.len())) {
                *weight += simd::dot(psi, &norm[at.clone()]);
            }
        });
    }

    fn absorb(&self, rows: usize, k: Mat<'_>, v: Mat<'_>, (matrix, norm): State<'_>, space: &mut [f32]) {
        let e = self.config.qkv.dim_v;
        self.blocks(rows, k, space, |at, psi| {
            let matrix = &mut matrix[at.start * e..at.end * e];
            product([at.len(), rows, e], Mat::rows(psi, at.len()).t(), v, Onto::Sum, matrix, e);
            psi.chunks_exact(at.len()).for_each(|psi| simd::add(&mut norm[at.clone()], psi));
        });
    }
}

wide! {
    /// `out = factor x y`, element by element.
    fn products(out: &mut [f32], x: &[f32], y: &[f32], factor: f32) {
        for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
            *out = x * y * factor;
        }
    }
}

wide! {
    /// `out = matrix x^2`, where x^2 are the squares of the elements of x.
    fn whitened(out: &mut [f32], x: &[f32], matrix: &[f32]) {
        for (out, row) in out.iter_mut().zip(matrix.chunks_exact(x.len())) {
            *out = row.iter().zip(x).map(|(w, x)| w * x * x).sum();
        }
    }
}

wide! {
    /// `out` is the circular convolution of x and y.
    fn convolution(out: &mut [f32], x: &[f32], y: &[f32]) {
        out.fill(0.0);
        for (i, x) in x.iter().enumerate() {
            let (head, tail) = out.split_at_mut(i);
            tail.iter_mut().zip(y).for_each(|(out, y)| *out += x * y);
            head.iter_mut().zip(&y[y.len() - i..]).for_each(|(out, y)| *out += x * y);
        }
    }
}

wide! {
    /// Products of two components, i <= j. Those with i < j are multiplied by the square root of two.
    fn pairs(row: &mut [f32], unit: &[f32]) {
        let mut rest = row;
        for (i, u) in unit.iter().enumerate() {
            let (row, tail) = std::mem::take(&mut rest).split_at_mut(unit.len() - i);
            rest = tail;
            let factor = std::f32::consts::SQRT_2 * u;
            row.iter_mut().zip(&unit[i..]).for_each(|(x, other)| *x = factor * other);
            row[0] = u * u;
        }
    }
}

wide! {
    /// `factor e^(root x - s)` of every element.
    fn exponential<FUSED>(x: &mut [f32], factor: f32, root: f32, s: f32) {
        for x in x {
            *x = factor * simd::exp_signed::<FUSED>(root * *x - s);
        }
    }
}

wide! {
    /// `factor x^2 e^(root x - s)` of every element.
    fn squared_exponential<FUSED>(x: &mut [f32], factor: f32, root: f32, s: f32) {
        for x in x {
            *x = factor * *x * *x * simd::exp_signed::<FUSED>(root * *x - s);
        }
    }
}

/// Number of features of E that `expand` multiplies by an entry of A at a time.
const STRIP: usize = 8;

wide! {
    /// Computes the features of one token, from pair `first` on. Pairs are in the order (r, p), with `features`
    /// features each.
    fn expand(row: &mut [f32], square: &[f32], exponentials: &[f32], first: usize, features: usize) {
        for (i, row) in row.chunks_exact_mut(features).enumerate() {
            let (r, p) = ((first + i) / square.len(), (first + i) % square.len());
            let (a, e) = (square[p], &exponentials[r * features..][..features]);
            let (mut strips, from) = (row.chunks_exact_mut(STRIP), e.chunks_exact(STRIP));
            let rest = from.remainder();
            for (to, from) in strips.by_ref().zip(from) {
                for i in 0..STRIP {
                    to[i] = a * from[i];
                }
            }
            strips.into_remainder().iter_mut().zip(rest).for_each(|(to, from)| *to = a * from);
        }
    }
}
