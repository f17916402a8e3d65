//! The values that a tensor may contain, and the checks for them.

use crate::catalog::spec::{Op, TensorSpec};
use crate::error::Error;
use crate::tensor::{HostTensor, Values};

/// The values that a tensor may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Finite values.
    Finite,
    /// Finite values and both infinities.
    Extended,
    /// Values of 0 or less. Others are refused.
    NotPositive,
    /// Finite values and minus infinity: the logarithm of 0, or the score of a hidden pair.
    Logarithm,
    /// Bytes, of which 0 is false. Others are refused.
    Mask,
    /// Whole numbers from 0 to 2^32 - 1. Others are refused.
    Count,
    /// Whole numbers from 0 to 2^31 - 1, the indices of something. Others are refused.
    Index,
    /// Logarithms of a decay: 0 or less, including minus infinity. Values above 0 make a state grow and cause a
    /// warning.
    LogDecay,
}

impl Domain {
    /// Whether a value that is not finite is allowed.
    fn takes(self, value: f32) -> bool {
        match self {
            Self::Extended => value.is_infinite(),
            Self::LogDecay | Self::Logarithm => value == f32::NEG_INFINITY,
            Self::Finite | Self::NotPositive | Self::Mask | Self::Count | Self::Index => false,
        }
    }
}

/// Values that are not finite and not allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Meaningless {
    /// Number of values that are not finite.
    pub count: usize,
    /// Number of values of the tensor.
    pub of: usize,
    /// Index of the first value that is not finite, counted through the tensor.
    pub at: usize,
    /// The first value that is not finite.
    pub value: f32,
}

/// The values of a tensor that are not finite and not allowed; `None` if there are none.
pub fn meaningless(domain: Domain, tensor: &HostTensor) -> Option<Meaningless> {
    if tensor.non_finite() == 0 {
        return None;
    }
    let values = tensor.to_f32();
    let wrong = |value: &&f32| !value.is_finite() && !domain.takes(**value);
    let at = values.iter().position(|value| wrong(&value))?;
    Some(Meaningless { count: values.iter().filter(wrong).count(), of: values.len(), at, value: values[at] })
}

/// Refuses values above 0 for [`Domain::NotPositive`], and whole numbers outside of [`Domain::Count`] and
/// [`Domain::Index`]. Returns the text of a warning for log decays above 0. NaN is ignored here, because [`meaningless`]
/// counts it.
///
/// # Errors
/// [`Error::Tensor`] with the number of refused values, the first of them and its index.
pub fn check(op: &Op, spec: &TensorSpec, tensor: &HostTensor) -> Result<Option<String>, Error> {
    let most = match spec.domain {
        Domain::Count => Some(i64::from(u32::MAX)),
        Domain::Index => Some(i64::from(i32::MAX)),
        _ => None,
    };
    if let (Some(most), Values::I64(values)) = (most, tensor.values()) {
        let wrong = |value: &&i64| !(0..=most).contains(*value);
        let Some(first) = values.iter().find(wrong) else { return Ok(None) };
        let found =
            format!("{} of {} that are not, the first {first}", values.iter().filter(wrong).count(), values.len());
        return Err(Error::tensor(op.name, spec.name, format!("whole numbers from 0 to {most}"), found));
    }
    let values = match spec.domain {
        Domain::Count | Domain::Index | Domain::Mask | Domain::Logarithm | Domain::Finite | Domain::Extended => {
            return Ok(None);
        }
        Domain::NotPositive | Domain::LogDecay => tensor.to_f32(),
    };
    let Some(first) = values.iter().position(|value| *value > 0.0) else { return Ok(None) };
    let count = values.iter().filter(|value| **value > 0.0).count();
    let found = format!("{count} of {} that are not, the first {} at {first}", values.len(), values[first]);
    if spec.domain == Domain::NotPositive {
        return Err(Error::tensor(op.name, spec.name, "values of 0 or less", found));
    }
    let text = format!("expected log decays of 0 or less, found {found}: with these the state grows");
    Ok(Some(format!("{}: tensor `{}`: {text}", op.name, spec.name)))
}
