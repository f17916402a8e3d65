//! Summaries of pieces of a sequence: the decay of a piece, and how summaries are folded.

use super::Config;
#[cfg(feature = "catalog")]
use crate::catalog::spec::TensorSpec;
#[cfg(feature = "catalog")]
use crate::catalog::summaries::{Fold, Settings, Sums};
use crate::tensor::{HostTensor, TensorMap};
use crate::verify::float;

/// The sum of `dt a` over the tokens, per state: `[B, C, S]`.
pub(super) fn log_decay(config: &Config, tensors: &TensorMap) -> HostTensor {
    let (shape, states) = (config.shape, config.states);
    let given = |name: &str| float::read::<f64>(tensors, name);
    let dt = given("dt").unwrap_or_default();
    let bias = given("dt_bias").filter(|_| config.dt_bias);
    let a: Vec<f64> = float::rates(tensors, config.a_log);
    let mut decays = Vec::with_capacity(shape.rows() * states);
    for (row, dt) in dt.chunks_exact(shape.length).enumerate() {
        let channel = row % shape.channels;
        let bias = bias.as_ref().map(|bias| bias[channel]);
        let sum: f64 = dt.iter().map(|dt| float::step(&config.steps, *dt, bias)).sum();
        decays.extend(a[channel * states..][..states].iter().map(|a| (sum * a) as f32));
    }
    HostTensor::f32([shape.batch, shape.channels, states], decays)
}

/// How summaries are folded.
#[cfg(feature = "catalog")]
pub(super) fn folding(_: &Settings<'_>) -> Result<Box<dyn Fold>, String> {
    Ok(Box::new(Sums([TensorSpec::state("state", "B C S")])))
}
