//! The tolerance: how large the error of an output may be. The same rule holds for all operators, with one table of
//! minimum tolerances.
//!
//! The error of an output is its relative RMS error against the definition in f64. The tolerance is twice the error of
//! the definition in f32 (rounded to the storage type of the output), with a minimum for each operator.

use half::f16;

#[cfg(feature = "cpu")]
use crate::operator::{Operator, Precision, ReferenceOutputs, Rows};
#[cfg(feature = "cpu")]
use crate::tensor::TensorMap;
use crate::tensor::{DType, HostTensor};

/// Minimum tolerance by operator, with the reason for it.
const FLOORS: &[(&str, f64, &str)] = &[(
    "linear",
    1e-6,
    "exp in elu1 is allowed 3 + 2|x| units in the last place by Vulkan, of which the host's libm needs less than one",
)];

/// Minimum tolerance of the other operators. It allows for sums that are rounded in another order.
const DEFAULT_FLOOR: f64 = 5e-7;

/// The result of comparing an output with the definition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Relative RMS error against the definition in f64.
    pub error: f64,
    /// The tolerance.
    pub bound: f64,
    /// Whether the error is finite and within the tolerance.
    pub ok: bool,
}

/// Outputs of the definition for some inputs: in f64, and in f32 to measure its own rounding error.
#[cfg(feature = "cpu")]
#[derive(Debug)]
pub struct Reference {
    exact: ReferenceOutputs,
    single: ReferenceOutputs,
}

#[cfg(feature = "cpu")]
impl Reference {
    /// Computes the definition in f64 and in f32, for the requested rows.
    pub fn of(operator: &dyn Operator, inputs: &TensorMap, rows: Rows<'_>) -> Self {
        let run = |precision| operator.reference(inputs, precision, rows);
        let (exact, single) = rayon::join(|| run(Precision::F64), || run(Precision::F32));
        Self { exact, single }
    }

    /// Compares every output and part of the state, by name. A missing one counts as wrong.
    pub fn compare(&self, op: &str, got: &TensorMap) -> Vec<(String, Comparison)> {
        let mut verdicts = Vec::new();
        for ((name, exact), (_, single)) in self.exact.iter().zip(&self.single) {
            let verdict = match got.get(name) {
                Some(tensor) => compare(op, tensor, exact, single),
                None => Comparison { error: f64::INFINITY, bound: 0.0, ok: false },
            };
            verdicts.push(((*name).to_owned(), verdict));
        }
        verdicts
    }
}

/// Compares one output by the rule of this module. `exact` and `single` are the definition in f64 and in f32.
pub fn compare(op: &str, got: &HostTensor, exact: &[f64], single: &[f64]) -> Comparison {
    if got.dtype() == DType::I64 {
        // Positions are whole numbers and must match exactly.
        let ok = got.to_f64() == exact;
        return Comparison { error: if ok { 0.0 } else { f64::INFINITY }, bound: 0.0, ok };
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
    // If the definition itself overflows in f32, the tolerance is infinite. An infinite error is still wrong.
    Comparison { error, bound, ok: error.is_finite() && error <= bound }
}

/// The square root of the sum of squares of `got - want`, divided by that of `want`. If `want` is all zero, it is not
/// divided. The result is infinite if the lengths differ, or if one value of a pair is finite and the other is not.
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
        let close = compare("linear", &HostTensor::f32([2], vec![1.0, 1.0 + 1.5e-5]), &exact, &single);
        let far = compare("linear", &HostTensor::f32([2], vec![1.0, 1.0 + 3e-5]), &exact, &single);
        assert!(close.ok && !far.ok, "{close:?} {far:?}");
    }
}
