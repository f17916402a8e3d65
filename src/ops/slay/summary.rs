//! Summaries of pieces of a sequence: nothing decays, so that the sums of the pieces are added.

use super::Config;
#[cfg(feature = "catalog")]
use super::OP;
#[cfg(feature = "catalog")]
use crate::catalog::summaries::{Fold, Settings, Sums};
use crate::tensor::{DType, HostTensor, TensorMap};

/// No decay: `[B, G, 1, 1]`.
pub(super) fn log_decay(config: &Config, _: &TensorMap) -> HostTensor {
    HostTensor::zeros([config.qkv.batch, config.qkv.kv_heads, 1, 1], DType::F32)
}

/// How summaries are folded.
#[cfg(feature = "catalog")]
pub(super) fn folding(_: &Settings<'_>) -> Result<Box<dyn Fold>, String> {
    Ok(Box::new(Sums([OP.state[0], OP.state[1]])))
}
