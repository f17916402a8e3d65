//! The definition of linear attention as plain loops, one token after another. No engine type, no cleverness: what
//! every kernel is judged by. Generic over f32 (what error the definition itself makes) and f64 (the truth).

use super::{Config, FeatureMap};
use crate::ops::Definition;
use crate::tensor::TensorMap;

/// A float: f32 or f64.
pub(super) trait Float:
    Copy + std::ops::Add<Output = Self> + std::ops::Mul<Output = Self> + std::ops::Div<Output = Self> + PartialOrd
{
    fn of(x: f64) -> Self;
    fn exp(self) -> Self;
    fn wide(self) -> f64;
}

impl Float for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn exp(self) -> Self {
        f32::exp(self)
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn exp(self) -> Self {
        f64::exp(self)
    }
    fn wide(self) -> f64 {
        self
    }
}

fn feature<T: Float>(map: FeatureMap, x: T) -> T {
    let zero = T::of(0.0);
    match map {
        FeatureMap::Elu1 if x > zero => x + T::of(1.0),
        FeatureMap::Elu1 => x.exp(),
        FeatureMap::Relu if x > zero => x,
        FeatureMap::Relu => zero,
        FeatureMap::Identity => x,
    }
}

/// `o` and, when carried, `state` and `norm`, in the layout of the configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap) -> Definition {
    let read = |name: &str, len: usize| -> Vec<T> {
        match tensors.get(name) {
            Some(tensor) => tensor.to_f64().into_iter().map(T::of).collect(),
            None => vec![T::of(0.0); len],
        }
    };
    let c = config;
    let (d, e) = (c.dim_k, c.dim_v);
    let states = c.batch * c.kv_heads;
    let q = read("q", 0);
    let k = read("k", 0);
    let v = read("v", 0);
    let mut state = read("state", states * d * e);
    let mut norm = read("norm", states * d);
    let mut o = vec![0.0f64; c.batch * c.heads * c.queries * e];

    let q_strides = c.layout.strides(c.heads, c.queries, d);
    let k_strides = c.layout.strides(c.kv_heads, c.keys, d);
    let v_strides = c.layout.strides(c.kv_heads, c.keys, e);
    let o_strides = c.layout.strides(c.heads, c.queries, e);
    let scale = T::of(f64::from(c.effective_scale()));
    let eps = T::of(f64::from(c.norm_eps));

    for b in 0..c.batch {
        for g in 0..c.kv_heads {
            let s = &mut state[(b * c.kv_heads + g) * d * e..][..d * e];
            let z = &mut norm[(b * c.kv_heads + g) * d..][..d];
            let write = |s: &mut [T], z: &mut [T], t: usize| {
                let k_row = &k[b * k_strides.batch + g * k_strides.head + t * k_strides.token..][..d];
                let v_row = &v[b * v_strides.batch + g * v_strides.head + t * v_strides.token..][..e];
                for i in 0..d {
                    let phi = feature(c.feature_map, k_row[i]);
                    z[i] = z[i] + phi;
                    for j in 0..e {
                        s[i * e + j] = s[i * e + j] + phi * v_row[j];
                    }
                }
            };
            let read = |s: &[T], z: &[T], t: usize, o: &mut [f64]| {
                for h in g * c.group()..(g + 1) * c.group() {
                    let q_row = &q[b * q_strides.batch + h * q_strides.head + t * q_strides.token..][..d];
                    let o_row = &mut o[b * o_strides.batch + h * o_strides.head + t * o_strides.token..][..e];
                    let phi: Vec<T> = q_row.iter().map(|&x| feature(c.feature_map, x)).collect();
                    let weight = (0..d).fold(T::of(0.0), |acc, i| acc + phi[i] * z[i]);
                    for j in 0..e {
                        let mut sum = (0..d).fold(T::of(0.0), |acc, i| acc + phi[i] * s[i * e + j]) * scale;
                        if c.normalize {
                            sum = sum / (scale * weight + eps);
                        }
                        o_row[j] = sum.wide();
                    }
                }
            };
            if c.causal {
                for t in 0..c.keys {
                    write(s, z, t);
                    read(s, z, t, &mut o);
                }
            } else {
                for t in 0..c.keys {
                    write(s, z, t);
                }
                for t in 0..c.queries {
                    read(s, z, t, &mut o);
                }
            }
        }
    }

    let wide = |values: Vec<T>| values.into_iter().map(Float::wide).collect();
    let mut outputs = vec![("o", o)];
    if c.carry {
        outputs.push(("state", wide(state)));
        if c.normalize {
            outputs.push(("norm", wide(norm)));
        }
    }
    outputs
}
