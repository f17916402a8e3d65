//! How wrong an output may be. One rule, one table.
//!
//! The error of an output is its relative RMS against the definition in f64. It may be at most twice the error that the
//! definition itself makes in f32 (stored as the output is stored), or the operator's floor, whichever is larger.

use half::f16;

#[cfg(feature = "cpu")]
use super::{Definition, Operator, Precision, Rows};
#[cfg(feature = "cpu")]
use crate::tensor::TensorMap;
use crate::tensor::{DType, HostTensor};

/// The least error that counts, by operator, with the reason.
const FLOORS: &[(&str, f64, &str)] = &[(
    "linear",
    1e-6,
    "exp in elu1 is allowed 3 + 2|x| units in the last place by Vulkan, of which the host's libm needs less than one",
)];

/// For operators without a row: rounding of sums in another order.
const DEFAULT_FLOOR: f64 = 5e-7;

/// How an output did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Relative RMS error against the definition in f64.
    pub error: f64,
    /// What was allowed.
    pub bound: f64,
    /// Whether it is within the bound.
    pub ok: bool,
}

/// Outputs of the definition for some inputs: in f64, and in f32 for the error it makes itself.
#[cfg(feature = "cpu")]
pub struct Truth {
    exact: Definition,
    single: Definition,
}

#[cfg(feature = "cpu")]
impl Truth {
    /// Runs the definition twice, for the wanted rows.
    pub fn of(operator: &dyn Operator, inputs: &TensorMap, rows: Rows<'_>) -> Self {
        let run = |precision| operator.reference(inputs, precision, rows);
        let (exact, single) = rayon::join(|| run(Precision::F64), || run(Precision::F32));
        Self { exact, single }
    }

    /// Judges every output and part of the state, by name; one that is missing is wrong.
    pub fn judge(&self, op: &str, got: &TensorMap) -> Vec<(String, Verdict)> {
        let mut verdicts = Vec::new();
        for ((name, exact), (_, single)) in self.exact.iter().zip(&self.single) {
            let verdict = match got.get(name) {
                Some(tensor) => judge(op, tensor, exact, single),
                None => Verdict { error: f64::INFINITY, bound: 0.0, ok: false },
            };
            verdicts.push(((*name).to_owned(), verdict));
        }
        verdicts
    }
}

/// Judges one output by the rule of this module. `exact` and `single` are the definition in f64 and in f32.
pub fn judge(op: &str, got: &HostTensor, exact: &[f64], single: &[f64]) -> Verdict {
    if got.dtype() == DType::I64 {
        // Positions are counted, not computed: there is no near miss.
        let ok = got.to_f64() == exact;
        return Verdict { error: if ok { 0.0 } else { f64::INFINITY }, bound: 0.0, ok };
    }
    let floor = FLOORS.iter().find(|f| f.0 == op).map_or(DEFAULT_FLOOR, |f| f.1);
    let error = relative_rms(&got.to_f64(), exact);
    let own = match got.dtype() {
        DType::F16 => {
            let stored: Vec<f64> = single.iter().map(|&x| f16::from_f64(x).to_f64()).collect();
            relative_rms(&stored, exact)
        }
        _ => relative_rms(single, exact),
    };
    let bound = (2.0 * own).max(floor);
    // Where the definition itself overflows in f32 the bound is infinite: an infinite error is wrong all the same.
    Verdict { error, bound, ok: error.is_finite() && error <= bound }
}

/// Root of the summed squares of `got - want` over that of `want`; of `got` itself where `want` is all zero. Infinite if
/// lengths differ or one is finite where the other is not.
pub fn relative_rms(got: &[f64], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let (mut wrong, mut size) = (0.0f64, 0.0f64);
    for (&g, &w) in got.iter().zip(want) {
        match (g.is_finite(), w.is_finite()) {
            (true, true) => {
                wrong += (g - w) * (g - w);
                size += w * w;
            }
            (false, false) => {}
            _ => return f64::INFINITY,
        }
    }
    if size == 0.0 { wrong.sqrt() } else { (wrong / size).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_rms_of_known_values() {
        assert_eq!(relative_rms(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((relative_rms(&[3.0, 5.0], &[3.0, 4.0]) - 0.2).abs() < 1e-15);
        assert_eq!(relative_rms(&[2.0], &[0.0]), 2.0);
        assert_eq!(relative_rms(&[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_rms(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn an_error_above_twice_the_definitions_own_fails() {
        let exact = [1.0, 1.0];
        let single = [1.0, 1.0 + 1e-5];
        let close = judge("linear", &HostTensor::f32([2], vec![1.0, 1.0 + 1.5e-5]), &exact, &single);
        let far = judge("linear", &HostTensor::f32([2], vec![1.0, 1.0 + 3e-5]), &exact, &single);
        assert!(close.ok && !far.ok, "{close:?} {far:?}");
    }
}
