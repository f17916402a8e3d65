//! Which values of a tensor mean something to its operator.

use super::{Op, TensorSpec};
use crate::error::Error;
use crate::tensor::HostTensor;

/// Values that an operator takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Finite ones.
    Finite,
    /// Finite ones and both infinities.
    Extended,
    /// Below 0: others are refused.
    Negative,
    /// Logarithms of a decay: 0 or less, minus infinity too. Above 0 they let a state grow, which is for a warning.
    LogDecay,
}

impl Domain {
    /// Whether a value that is not finite means something.
    fn takes(self, value: f32) -> bool {
        match self {
            Self::Extended => value.is_infinite(),
            Self::LogDecay => value == f32::NEG_INFINITY,
            Self::Finite | Self::Negative => false,
        }
    }
}

/// How many values are not finite and mean nothing.
pub fn meaningless(spec: &TensorSpec, tensor: &HostTensor) -> usize {
    match (spec.domain, tensor.non_finite()) {
        (_, 0) => 0,
        (domain, _) => tensor.to_f32().iter().filter(|value| !value.is_finite() && !domain.takes(**value)).count(),
    }
}

/// Refuses values of 0 or more where they must be below. NaN is none of these: it is reported as what is not finite. Of log
/// decays above 0 comes a sentence that warns.
///
/// # Errors
/// [`Error::Tensor`] with how many there are, and which is the first.
pub fn check(op: &Op, spec: &TensorSpec, tensor: &HostTensor) -> Result<Option<String>, Error> {
    let values = match spec.domain {
        Domain::Finite | Domain::Extended => return Ok(None),
        Domain::Negative | Domain::LogDecay => tensor.to_f32(),
    };
    let wrong = |value: f32| if spec.domain == Domain::Negative { value >= 0.0 } else { value > 0.0 };
    let Some(first) = values.iter().position(|value| wrong(*value)) else { return Ok(None) };
    let count = values.iter().filter(|value| wrong(**value)).count();
    let found = format!("{count} of {} that are not, the first {} at {first}", values.len(), values[first]);
    if spec.domain == Domain::Negative {
        return Err(Error::tensor(op.name, spec.name, "values below 0", found));
    }
    let text = format!("expected log decays of 0 or less, found {found}: with these the state grows");
    Ok(Some(format!("{}: tensor `{}`: {text}", op.name, spec.name)))
}
