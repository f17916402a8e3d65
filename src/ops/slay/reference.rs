//! The definition of SLAY: the features of the module's formula, walked token after token.

use super::{Config, Poly, poly, quadrature};
use crate::ops::float::{self, Float};
use crate::ops::{Definition, Rows, Walk};
use crate::tensor::TensorMap;

/// The wanted tokens of `o` and, when carried, `state` and `norm` after the last, in the layout of the configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> Definition {
    let features = Features::<T>::new(config, tensors);
    let walk = Walk {
        qkv: config.qkv,
        width: config.width(),
        causal: config.causal,
        carry: config.carry,
        scale: 1.0,
        norm_eps: Some(config.norm_eps),
        gates: 0,
        exponential: None,
    };
    walk.outputs(tensors, rows, |g, _, x: &[T]| features.of(g, x))
}

/// Parameters of the maps.
struct Features<'a, T> {
    config: &'a Config,
    /// What the map for the square takes, `[P, D]` or `[2, P, D]`; empty for those that take nothing.
    weight: Vec<T>,
    /// `[P, P]` under Nystrom.
    whitening: Vec<T>,
    /// `[R, G, F, D]`.
    omega: Vec<T>,
    /// As [`quadrature::factors`].
    nodes: Vec<[T; 3]>,
}

impl<'a, T: Float> Features<'a, T> {
    fn new(config: &'a Config, tensors: &TensorMap) -> Self {
        let read = |name: &str| float::read(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let weight = config.poly.weight().map_or_else(Vec::new, |spec| read(spec.name));
        let whitening = match (config.poly, tensors.get("anchors")) {
            (Poly::Nystrom, Some(anchors)) => poly::whitening(&anchors.to_f32(), config.qkv.dim_k),
            _ => Vec::new(),
        };
        let whitening = whitening.into_iter().map(T::of).collect();
        let nodes = quadrature::factors(config).into_iter().map(|node| node.map(T::of)).collect();
        Self { config, weight, whitening, omega: read("omega"), nodes }
    }

    /// Of a row of q or k, in the order (r, p, f).
    fn of(&self, g: usize, x: &[T]) -> Vec<T> {
        let (d, f) = (self.config.qkv.dim_k, self.config.features);
        let norm = float::dot(x, x).sqrt();
        let least = T::of(1e-12);
        let norm = if norm > least { norm } else { least };
        let u: Vec<T> = x.iter().map(|&x| x / norm).collect();
        let square = self.square(&u);
        let mut features = Vec::with_capacity(self.config.width());
        for (r, &[factor, root, s]) in self.nodes.iter().enumerate() {
            let omega = &self.omega[(r * self.config.qkv.kv_heads + g) * f * d..][..f * d];
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

    /// The map for the square.
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
            // A vector of zeros has no direction, and no features.
            Poly::Laplace | Poly::Hadamard => {
                vec![if u.iter().all(|&x| x == T::of(0.0)) { T::of(0.0) } else { T::of(1.0) }]
            }
        }
    }
}
