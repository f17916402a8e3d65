//! The definition of linear attention as plain loops, one token after another. No engine type, no cleverness: what
//! every kernel is judged by. Generic over f32 (what error the definition itself makes) and f64 (the truth).

use super::{Config, FeatureMap};
use crate::ops::Definition;
use crate::ops::Rows;
use crate::ops::float::{self, Float};
use crate::tensor::TensorMap;

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

/// The wanted tokens of `o` and, when carried, `state` and `norm` after the last, in the layout of the configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> Definition {
    let read = |name: &str, len: usize| float::read::<T>(tensors, name).unwrap_or_else(|| vec![T::of(0.0); len]);
    let c = config;
    let (d, e) = (c.qkv.dim_k, c.qkv.dim_v);
    let states = c.qkv.batch * c.qkv.kv_heads;
    let q = read("q", 0);
    let k = read("k", 0);
    let v = read("v", 0);
    let mut state = read("state", states * d * e);
    let mut norm = read("norm", states * d);
    let wanted = rows.of(c.qkv.queries);
    let mut o = vec![0.0f64; c.qkv.batch * c.qkv.heads * wanted.len() * e];

    let q_strides = c.qkv.layout.strides(c.qkv.heads, c.qkv.queries, d);
    let k_strides = c.qkv.layout.strides(c.qkv.kv_heads, c.qkv.keys, d);
    let v_strides = c.qkv.layout.strides(c.qkv.kv_heads, c.qkv.keys, e);
    let o_strides = c.qkv.layout.strides(c.qkv.heads, wanted.len(), e);
    let scale = T::of(f64::from(c.effective_scale()));
    let eps = T::of(f64::from(c.norm_eps));

    for b in 0..c.qkv.batch {
        for g in 0..c.qkv.kv_heads {
            let s = &mut state[(b * c.qkv.kv_heads + g) * d * e..][..d * e];
            let z = &mut norm[(b * c.qkv.kv_heads + g) * d..][..d];
            let write = |s: &mut [T], z: &mut [T], t: usize| {
                let k_row = &k[b * k_strides.batch + g * k_strides.head + t * k_strides.token..][..d];
                let v_row = &v[b * v_strides.batch + g * v_strides.head + t * v_strides.token..][..e];
                for i in 0..d {
                    let phi = feature(c.feature_map, k_row[i]);
                    z[i] += phi;
                    for j in 0..e {
                        s[i * e + j] += phi * v_row[j];
                    }
                }
            };
            let read = |s: &[T], z: &[T], t: usize, at: usize, o: &mut [f64]| {
                for h in g * c.qkv.group()..(g + 1) * c.qkv.group() {
                    let q_row = &q[b * q_strides.batch + h * q_strides.head + t * q_strides.token..][..d];
                    let o_row = &mut o[b * o_strides.batch + h * o_strides.head + at * o_strides.token..][..e];
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
                let mut next = wanted.iter().copied().enumerate().peekable();
                for t in 0..c.qkv.keys {
                    write(s, z, t);
                    if let Some((at, _)) = next.next_if(|&(_, wanted)| wanted == t) {
                        read(s, z, t, at, &mut o);
                    }
                }
            } else {
                for t in 0..c.qkv.keys {
                    write(s, z, t);
                }
                for (at, &t) in wanted.iter().enumerate() {
                    read(s, z, t, at, &mut o);
                }
            }
        }
    }

    let mut outputs = vec![("o", o)];
    if c.carry {
        outputs.push(("state", float::wide(state)));
        if c.normalize {
            outputs.push(("norm", float::wide(norm)));
        }
    }
    outputs
}
