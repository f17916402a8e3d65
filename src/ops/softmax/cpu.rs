//! The `cpu` backend: the tiled attention core, applied directly to q, k and v.

use super::Config;
use crate::cores::attention::cpu as attention;
use crate::cores::attention::cpu::{Score, Weights};
use crate::tensor::TensorMap;

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let scale = config.effective_scale();
    let score = config.softcap.map_or(Score::Scaled(scale), |cap| Score::Capped { scale, cap });
    attention::run(config.qkv, config.rule(), &config.extras(), score, Weights::Softmax, tensors)
}
