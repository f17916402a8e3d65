//! The definition of linear attention: a feature of every component, walked token after token.

use super::{Config, FeatureMap};
use crate::ops::float::Float;
use crate::ops::{Definition, Rows, Walk};
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
    let walk = Walk {
        qkv: config.qkv,
        width: config.qkv.dim_k,
        causal: config.causal,
        carry: config.carry,
        scale: config.effective_scale(),
        norm_eps: config.normalize.then_some(config.norm_eps),
        gates: config.gates_each(),
    };
    walk.outputs(tensors, rows, |_, x: &[T]| x.iter().map(|&x| feature(config.feature_map, x)).collect())
}
