//! The `cpu` backend: the tiled core over q, k and v as they are.

use super::Config;
use crate::ops::cpu::attend::{Attend, Score, Weights};
use crate::ops::cpu::{Output, Source};
use crate::tensor::TensorMap;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let s = config.qkv;
    let [q, k, v] = ["q", "k", "v"].map(|name| {
        let tensor = tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        Source::new(tensor, s.layout, None)
    });
    let o = Output::new(s.dtype, s.layout, [s.batch, s.heads, s.queries, s.dim_v]);
    let score = Score::Scaled(config.effective_scale());
    Attend { shape: s, mask: config.mask(), score, weights: Weights::Softmax, q, k, v }.run(&o);
    [("o".to_owned(), o.finish())].into_iter().collect()
}
