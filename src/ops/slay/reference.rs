//! The definition of SLAY: the features of the module's formula, and the recurrence over them computed token by token.

use super::{Config, Poly, poly, quadrature};
use crate::cores::recurrence::reference::{Gates, Recurrence};
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

/// The requested tokens of `o` and, if carried, `state` and `norm` after the last token, in the layout of the
/// configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let features = Features::<T>::new(config, tensors);
    let walk = Recurrence {
        qkv: config.qkv,
        width: config.width(),
        mode: config.mode,
        scale: 1.0,
        norm_eps: Some(config.norm_eps),
        gates: 0,
        exponential: None,
    };
    walk.outputs(tensors, rows, Gates { g: Vec::new(), beta: None }, |g, _, x: &[T]| features.of(g, x))
}

/// The parameters of the two maps.
struct Features<'a, T> {
    config: &'a Config,
    /// The tensor of the map for the square, `[P, D]` or `[2, P, D]`; empty for a map without one.
    weight: Vec<T>,
    /// `[P, P]` for `nystrom`, otherwise empty.
    whitening: Vec<T>,
    /// `[R, G, F, D]`.
    omega: Vec<T>,
    /// See [`quadrature::factors`].
    nodes: Vec<[T; 3]>,
}

impl<'a, T: Float> Features<'a, T> {
    fn new(config: &'a Config, tensors: &TensorMap) -> Self {
        let read = |name: &str| float::read(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let weight = config.poly.weight().map_or_else(Vec::new, read);
        let whitening = match (config.poly, tensors.get("anchors")) {
            (Poly::Nystrom, Some(anchors)) => poly::whitening(&anchors.to_f32(), config.qkv.dim_k),
            _ => Vec::new(),
        };
        let whitening = whitening.into_iter().map(T::of).collect();
        let nodes = quadrature::factors(config).into_iter().map(|node| node.map(T::of)).collect();
        Self { config, weight, whitening, omega: read("omega"), nodes }
    }

    /// The features of a row of q or k, in the order (r, p, f).
    fn of(&self, g: usize, x: &[T]) -> Vec<T> {
        let (d, f) = (self.config.qkv.dim_k, self.config.features);
        let norm = float::dot(x, x).sqrt();
        let least = T::of(1e-12);
        let norm = if norm > least { norm } else { least };
        let u: Vec<T> = x.iter().map(|&x| x / norm).collect();
        let square = self.square(&u);
        let mut features = Vec::with_capacity(self.config.width());
        for (r, &[factor, root, s]) in self.nodes.iter().enumerate() {
            let omega = &self.omega[(r * self.config.qkv.key_heads() + g) * f * d..][..f * d];
            let exponential = |omega: &[T]| {
                let x = float::dot(omega, &u);
                let square = if self.config.poly == Poly::Hadamard { x * x } else { T::of(1.0) };
                factor * square * (root * x - s).exp()
            };
            let exponential: Vec<T> = omega.chunks_exact(d).map(exponential).collect();
            for &a in &square {
                features.extend(exponential.iter().map(|&e| a * e));
            }
        }
        features
    }

    /// Computes the map for the square of a unit vector.
    fn square(&self, u: &[T]) -> Vec<T> {
        let (d, p) = (u.len(), self.config.anchors);
        let factor = T::of(1.0 / (p as f64).sqrt());
        let along: Vec<T> = self.weight.chunks_exact(d).map(|row| float::dot(row, u)).collect();
        match self.config.poly {
            Poly::Anchor => along.iter().map(|&x| x * x * factor).collect(),
            Poly::Exact => {
                let root = T::of(std::f64::consts::SQRT_2);
                let pair = |i: usize, j: usize| if i == j { u[i] * u[j] } else { root * u[i] * u[j] };
                (0..d).flat_map(|i| (i..d).map(move |j| pair(i, j))).collect()
            }
            Poly::Nystrom => {
                let squares: Vec<T> = along.iter().map(|&x| x * x).collect();
                self.whitening.chunks_exact(p).map(|row| float::dot(row, &squares)).collect()
            }
            Poly::Maclaurin => (0..p).map(|i| along[i] * along[p + i] * factor).collect(),
            Poly::TensorSketch => {
                let entry = |i: usize| {
                    let sum = |sum: T, j: usize| sum + along[j] * along[p + (p + i - j) % p];
                    (0..p).fold(T::of(0.0), sum)
                };
                (0..p).map(entry).collect()
            }
            // A zero vector has no direction and no features.
            Poly::Laplace | Poly::Hadamard => {
                vec![if u.iter().all(|&x| x == T::of(0.0)) { T::of(0.0) } else { T::of(1.0) }]
            }
        }
    }
}
