//! The definition of linear attention: the feature maps, and the recurrence over them computed token by token.

use super::{Config, FeatureMap, maps};
use crate::cores::recurrence::reference::Recurrence;
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::TensorMap;
use crate::verify::float::{self, Float};

fn relu<T: Float>(x: T) -> T {
    if x > T::of(0.0) { x } else { T::of(0.0) }
}

fn elu1<T: Float>(x: T) -> T {
    if x > T::of(0.0) { x + T::of(1.0) } else { x.exp() }
}

/// The requested tokens of `o` and, if carried, the state after the last token, in the layout of the configuration.
pub(super) fn outputs<T: Float>(config: &Config, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
    let walk = Recurrence {
        qkv: config.qkv,
        width: config.width(),
        mode: config.mode,
        scale: config.effective_scale(),
        norm_eps: config.normalize().then_some(config.norm_eps()),
        gates: config.gates_each(),
        exponential: (config.feature_map() == FeatureMap::Performer).then(|| (config.features as f64).sqrt().recip()),
    };
    let d = config.qkv.dim_k;
    let omega = float::read::<T>(tensors, "omega").unwrap_or_default();
    let along = |g: usize, x: &[T]| -> Vec<T> {
        let first = if config.omega_per_head { g * config.features } else { 0 };
        omega.chunks_exact(d).skip(first).take(config.features).map(|row| float::dot(row, x)).collect()
    };
    let root = T::of((d as f64).sqrt().sqrt());
    let exponents = |g: usize, x: &[T]| -> Vec<T> {
        let x: Vec<T> = x.iter().map(|&x| x / root).collect();
        let half = T::of(0.5) * float::dot(&x, &x);
        along(g, &x).into_iter().map(|along| along - half).collect()
    };
    let position = maps::position(tensors);
    let turned = |t: usize, x: &[T]| -> Vec<T> {
        let angle = maps::angle(position.wrapping_add(t as u64), config.effective_max_len());
        angle.into_iter().flat_map(|factor| x.iter().map(move |&x| relu(x) * T::of(factor))).collect()
    };
    let mut outputs = walk.outputs(tensors, rows, |g, t, x: &[T]| match config.feature_map() {
        FeatureMap::Elu1 => x.iter().copied().map(elu1).collect(),
        FeatureMap::Relu => x.iter().copied().map(relu).collect(),
        FeatureMap::Identity => x.to_vec(),
        FeatureMap::PerformerRelu => along(g, x).into_iter().map(relu).collect(),
        FeatureMap::Performer => exponents(g, x),
        FeatureMap::Cosformer => turned(t, x),
    });
    if config.mode.carry && config.feature_map() == FeatureMap::Cosformer {
        outputs.push(("position", vec![maps::position_after(tensors, config.qkv.keys) as f64]));
    }
    outputs
}
