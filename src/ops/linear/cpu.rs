//! The `cpu` backend: the recurrence of [`crate::ops::cpu::recurrence`] over features of single components.

use super::{Config, FeatureMap, Gate, Rule};
use crate::ops::cpu::decay::Decay;
use crate::ops::cpu::recurrence::{self, Components, Recurrence, Tensors};
use crate::ops::cpu::{self, Map, Source};
use crate::tensor::TensorMap;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let map: Map = match config.feature_map {
        FeatureMap::Elu1 => Some(cpu::elu1),
        FeatureMap::Relu => Some(cpu::relu),
        FeatureMap::Identity => None,
    };
    let source = |name: &str, map: Map| {
        let tensor = tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        Source::new(tensor, config.qkv.layout, map)
    };
    let decay = match config.rule {
        Rule::Linear => Decay::None,
        Rule::Gated(Gate::Head) => Decay::Head(source("g", None)),
        Rule::Gated(Gate::Channel) => Decay::Row(source("g", None)),
    };
    let run = Recurrence {
        qkv: config.qkv,
        features: Components { width: config.qkv.dim_k, dim_v: config.qkv.dim_v },
        causal: config.causal,
        carry: config.carry,
        segment: config.segment,
        scale: config.effective_scale(),
        norm_eps: config.normalize.then_some(config.norm_eps),
        share: 1,
        transposed: false,
    };
    let own = Tensors { q: source("q", map), k: source("k", map), v: source("v", None), decay };
    run.run(own, tensors, "o", None)
}

/// One line for people.
pub(super) fn variant(config: &Config) -> String {
    recurrence::variant::<Components>(config.segment)
}
