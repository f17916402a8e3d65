//! The `cpu` backend: the tiled core over q, k and v as they are.

use super::Config;
use crate::ops::cpu::attend::{self, Score, Weights};
use crate::tensor::TensorMap;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    attend::run(config.qkv, config.mask(), Score::Scaled(config.effective_scale()), Weights::Softmax, tensors)
}
