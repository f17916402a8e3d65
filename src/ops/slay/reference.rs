//! The definition of SLAY: the features of the module's formula, walked token after token.

use super::{Config, Poly, quadrature};
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
    };
    walk.outputs(tensors, rows, |g, x: &[T]| features.of(g, x))
}

/// Parameters of the maps.
struct Features<'a, T> {
    config: &'a Config,
    /// `[P, D]`; empty for the exact map.
    anchors: Vec<T>,
    /// `[R, G, F, D]`.
    omega: Vec<T>,
    /// As [`quadrature::factors`].
    nodes: Vec<[T; 3]>,
}

impl<'a, T: Float> Features<'a, T> {
    fn new(config: &'a Config, tensors: &TensorMap) -> Self {
        let read = |name: &str| float::read(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let anchors = if config.poly == Poly::Anchor { read("anchors") } else { Vec::new() };
        let nodes = quadrature::factors(config).into_iter().map(|node| node.map(T::of)).collect();
        Self { config, anchors, omega: read("omega"), nodes }
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
            let exponential = |omega: &[T]| factor * (root * float::dot(omega, &u) - s).exp();
            let exponential: Vec<T> = omega.chunks_exact(d).map(exponential).collect();
            for &a in &square {
                features.extend(exponential.iter().map(|&e| a * e));
            }
        }
        features
    }

    /// The map for the square.
    fn square(&self, u: &[T]) -> Vec<T> {
        let d = u.len();
        match self.config.poly {
            Poly::Anchor => {
                let factor = T::of(1.0 / (self.config.anchors as f64).sqrt());
                let square = |anchor: &[T]| float::dot(anchor, u) * float::dot(anchor, u) * factor;
                self.anchors.chunks_exact(d).map(square).collect()
            }
            Poly::Exact => {
                let root = T::of(std::f64::consts::SQRT_2);
                let pair = |i: usize, j: usize| if i == j { u[i] * u[j] } else { root * u[i] * u[j] };
                (0..d).flat_map(|i| (i..d).map(move |j| pair(i, j))).collect()
            }
        }
    }
}
