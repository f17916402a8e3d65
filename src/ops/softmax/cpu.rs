//! The `cpu` backend: the tiled attention core, applied directly to q, k and v.

use super::Config;
use crate::cores::attention::cpu as attention;
use crate::cores::attention::cpu::{Score, Weights};
use crate::tensor::TensorMap;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let score = Score::Scaled(config.effective_scale());
    attention::run(config.qkv, config.mask(), config.lengths, score, Weights::Softmax, tensors)
}
