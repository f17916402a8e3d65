//! What values of a tensor mean nothing to its operator.

use super::{Op, TensorSpec};
use crate::error::Error;
use crate::tensor::HostTensor;

/// Refuses values of 0 or more in a tensor that the row wants below 0. NaN is none of these: it is reported as what is not
/// finite.
///
/// # Errors
/// [`Error::Tensor`] with how many there are, and which is the first.
pub fn check(op: &Op, spec: &TensorSpec, tensor: &HostTensor) -> Result<(), Error> {
    if !spec.below_zero {
        return Ok(());
    }
    let values = tensor.to_f32();
    let wrong = || values.iter().enumerate().filter(|(_, value)| **value >= 0.0);
    let Some((first, value)) = wrong().next() else { return Ok(()) };
    let found = format!("{} of {} that are not, the first {value} at {first}", wrong().count(), values.len());
    Err(Error::tensor(op.name, spec.name, "values below 0", found))
}
