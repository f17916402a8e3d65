//! The definition of linear attention: the feature maps, and the recurrence over them computed token by token.

use super::{Config, Decays, FeatureMap, LENGTH_EPS, maps};
use crate::cores::recurrence::reference::{Gates, Recurrence};
use crate::operator::qkv::Qkv;
use crate::operator::{ReferenceOutputs, Rows};
use crate::tensor::{Layout, TensorMap};
use crate::verify::float::{self, Float};

fn relu<T: Float>(x: T) -> T {
    if x > T::of(0.0) { x } else { T::of(0.0) }
}

fn elu1<T: Float>(x: T) -> T {
    if x > T::of(0.0) { x + T::of(1.0) } else { x.exp() }
}

/// One number per token and head of v, computed from batch, head and token, in the layout of the configuration.
fn each<T>(config: &Config, of: impl Fn(usize, usize, usize) -> T) -> Vec<T> {
    let Qkv { batch, kv_heads, keys, layout, .. } = config.qkv;
    let one = |at: usize| match layout {
        Layout::Bhnd => of(at / keys / kv_heads, at / keys % kv_heads, at % keys),
        Layout::Bnhd => of(at / kv_heads / keys, at % kv_heads, at / kv_heads % keys),
    };
    (0..batch * kv_heads * keys).map(one).collect()
}

/// The log decays of every token.
pub(super) fn log_decays<T: Float>(config: &Config, tensors: &TensorMap) -> Vec<T> {
    let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_default();
    match config.decays {
        Decays::PerToken => read("g"),
        Decays::Constant => {
            let g = read("g");
            each(config, |_, head, _| g[head])
        }
        Decays::Computed { dt_bias } => {
            let (a, a_log, bias) = (read("a"), read("a_log"), read("dt_bias"));
            let at = config.qkv.layout.strides(config.qkv.kv_heads, config.qkv.keys, 1);
            each(config, |b, head, t| {
                let a = a[b * at.batch + head * at.head + t * at.token];
                float::rate(a_log[head]) * float::softplus(if dt_bias { a + bias[head] } else { a })
            })
        }
    }
}

/// The strengths of the corrections of every token; `None` unless the rule is a delta rule.
fn strengths<T: Float>(config: &Config, tensors: &TensorMap) -> Option<Vec<T>> {
    let mut beta = float::read::<T>(tensors, "beta")?;
    if config.beta_sigmoid {
        beta.iter_mut().for_each(|x| *x = float::sigmoid(*x));
    }
    Some(if config.beta_for_all_heads { each(config, |b, _, t| beta[b * config.qkv.keys + t]) } else { beta })
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
    let of_row = |g: usize, t: usize, x: &[T]| match config.feature_map() {
        FeatureMap::Elu1 => x.iter().copied().map(elu1).collect(),
        FeatureMap::Relu => x.iter().copied().map(relu).collect(),
        FeatureMap::Identity => x.to_vec(),
        FeatureMap::PerformerRelu => along(g, x).into_iter().map(relu).collect(),
        FeatureMap::Performer => exponents(g, x),
        FeatureMap::Cosformer => turned(t, x),
    };
    let unit = |x: &[T]| -> Vec<T> {
        let length = (float::dot(x, x) + T::of(f64::from(LENGTH_EPS))).sqrt();
        x.iter().map(|&x| x / length).collect()
    };
    let features = |g: usize, t: usize, x: &[T]| if config.l2norm { of_row(g, t, &unit(x)) } else { of_row(g, t, x) };
    let gates = Gates { g: log_decays(config, tensors), beta: strengths(config, tensors) };
    let mut outputs = walk.outputs(tensors, rows, gates, features);
    if config.mode.carry && config.feature_map() == FeatureMap::Cosformer {
        outputs.push(("position", vec![maps::position_after(tensors, config.qkv.keys) as f64]));
    }
    outputs
}
