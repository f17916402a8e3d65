//! Summaries of pieces of a sequence: the decay of a piece, and how summaries are folded.

use super::Config;
#[cfg(feature = "catalog")]
use crate::catalog::spec::TensorSpec;
#[cfg(feature = "catalog")]
use crate::catalog::summaries::{Fold, Settings, Sums};
use crate::tensor::{HostTensor, TensorMap};
use crate::verify::float;

/// The sum of `dt a` over the tokens, per head: `[B, H, 1, 1]`.
pub(super) fn log_decay(config: &Config, tensors: &TensorMap) -> HostTensor {
    let Config { batch, length, heads, .. } = *config;
    let given = |name: &str| float::read::<f64>(tensors, name);
    let dt = given("dt").unwrap_or_default();
    let bias = given("dt_bias").filter(|_| config.dt_bias);
    let a: Vec<f64> = float::rates(tensors, config.a_log);
    let mut sums = vec![0.0; batch * heads];
    for (token, steps) in dt.chunks_exact(heads).enumerate() {
        for (h, dt) in steps.iter().enumerate() {
            let step = float::step(&config.steps, *dt, bias.as_ref().map(|bias| bias[h]));
            sums[token / length * heads + h] += step * a[h];
        }
    }
    HostTensor::f32([batch, heads, 1, 1], sums.into_iter().map(|sum| sum as f32).collect())
}

/// How summaries are folded.
#[cfg(feature = "catalog")]
pub(super) fn folding(settings: &Settings<'_>) -> Result<Box<dyn Fold>, String> {
    let axes = if settings.values_first() { "B H S P" } else { "B H P S" };
    Ok(Box::new(Sums([TensorSpec::state("state", axes)])))
}
