//! Axes and tensors shared by the rows of operators that work on [`Channels`].

use super::request::Request;
use super::spec::{AxisDefault, Op, TensorSpec};
use crate::error::Error;
use crate::operator::channels::Channels;

/// The input.
pub const X: TensorSpec = TensorSpec::stream("x", "B C N");

/// The output.
pub const Y: TensorSpec = TensorSpec::stream("y", "B C N");

/// Axes, with their default lengths in a random input.
pub const AXES: [(&str, AxisDefault); 3] =
    [("B", AxisDefault::Length(1)), ("C", AxisDefault::Length(1024)), ("N", AxisDefault::Length(1024))];

/// Creates the [`Channels`] from the shape of x.
///
/// # Errors
/// One sentence that names the tensor.
pub fn of(op: &Op, request: &Request<'_>) -> Result<Channels, Error> {
    let dims = request.required(op.name, &X)?.dims();
    Ok(Channels { batch: dims[0], channels: dims[1], length: dims[2], dtype: request.dtype })
}
