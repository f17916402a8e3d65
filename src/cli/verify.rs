//! What `--verify` and `check` judge by: the definition in double precision, and the error it makes in single.

use crate::ops::tolerance::{self, Verdict};
use crate::ops::{Definition, Operator, Precision};
use crate::tensor::TensorMap;

/// Outputs of the definition for some inputs.
pub struct Truth {
    exact: Definition,
    single: Definition,
}

impl Truth {
    /// Runs the definition twice.
    pub fn of(operator: &dyn Operator, inputs: &TensorMap) -> Self {
        let (exact, single) =
            rayon::join(|| operator.reference(inputs, Precision::F64), || operator.reference(inputs, Precision::F32));
        Self { exact, single }
    }

    /// Judges every output and part of the state, by name.
    pub fn judge(&self, op: &'static str, got: &TensorMap) -> Vec<(String, Verdict)> {
        let mut verdicts = Vec::new();
        for ((name, exact), (_, single)) in self.exact.iter().zip(&self.single) {
            let verdict = match got.get(name) {
                Some(tensor) => tolerance::judge(op, tensor, exact, single),
                None => Verdict { error: f64::INFINITY, bound: 0.0, ok: false },
            };
            verdicts.push(((*name).to_owned(), verdict));
        }
        verdicts
    }
}
