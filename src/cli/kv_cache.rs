//! The key/value cache of a state file ([`Role::Cache`]): keys and values of earlier runs, which are prepended to those of
//! the input.

use crate::catalog::spec::{Op, Role, TensorSpec};
use crate::error::Error;
use crate::tensor::{DType, HostTensor, Layout, Shape, TensorMap};

/// The cache of that name, if the operator has one.
pub(super) fn of<'a>(op: &'a Op, name: &str) -> Option<&'a TensorSpec> {
    op.state.iter().find(|spec| spec.role == Role::Cache && spec.name == name)
}

/// B, heads, length and dim of a tensor in that layout.
fn axes(shape: &Shape, layout: Layout) -> [usize; 4] {
    match *shape.dims() {
        [b, h, n, d] if layout == Layout::Bhnd => [b, h, n, d],
        [b, n, h, d] => [b, h, n, d],
        _ => [0; 4],
    }
}

/// Refuses a tensor that has another length than `lead`, the first sequence tensor: with a state file every new query
/// comes with its own key and value.
///
/// # Errors
/// [`Error::Tensor`].
pub(super) fn check(op: &Op, spec: &TensorSpec, tensor: &Shape, lead: &Shape, layout: Layout) -> Result<(), Error> {
    let [wanted, found] = [lead, tensor].map(|tensor| axes(tensor, layout)[2]);
    if wanted == found {
        return Ok(());
    }
    let lead = op.inputs.first().map_or("", |lead| lead.name);
    let expected = format!("length M = {wanted} as in {lead} with a state file");
    Err(Error::tensor(op.name, spec.name, expected, found.to_string()))
}

/// The shape of the cache followed by the tokens of a tensor: what [`extend`] makes.
///
/// # Errors
/// [`Error::Tensor`] if batch, heads or dim of the cache differ from those of the tensor.
pub(super) fn extended(
    op: &Op,
    spec: &TensorSpec,
    (dtype, cache): (DType, &Shape),
    tensor: &Shape,
    layout: Layout,
) -> Result<Shape, Error> {
    let [batch, heads, new, dim] = axes(tensor, layout);
    let [b, h, old, d] = axes(cache, Layout::Bhnd);
    if [batch, heads, dim] != [b, h, d] || !dtype.is_float() || old == 0 {
        let expected = format!("f32 [{batch}, {heads}, M, {dim}] in the state file");
        return Err(Error::tensor(op.name, spec.name, expected, format!("{dtype} {cache}")));
    }
    Ok(layout.shape(batch, heads, old + new, dim))
}

/// The cache, which is `[B, G, M, D]` in either layout, followed by the tokens of `tensor`. [`extended`] has compared their
/// shapes.
pub(super) fn extend(cache: &HostTensor, tensor: &HostTensor, layout: Layout) -> HostTensor {
    let [batch, heads, new, dim] = axes(tensor.shape(), layout);
    let old = axes(cache.shape(), Layout::Bhnd)[2];
    let (before, after) = (cache.to_f32(), tensor.to_f32());
    let [from_before, from_after] =
        [(Layout::Bhnd, old), (layout, new)].map(|(layout, n)| (layout.strides(heads, n, dim), n));
    let mut values = Vec::with_capacity(before.len() + after.len());
    each_row(layout, [batch, heads, old + new], |b, h, n| {
        let (source, (at, _), n) = if n < old { (&before, from_before, n) } else { (&after, from_after, n - old) };
        values.extend_from_slice(&source[b * at.batch + h * at.head + n * at.token..][..dim]);
    });
    HostTensor::f32(layout.shape(batch, heads, old + new, dim), values).cast(tensor.dtype())
}

/// All caches of the operator in the form of a state file, f32 `[B, G, M, D]`, taken from its inputs.
pub(super) fn kept(op: &Op, inputs: &TensorMap, layout: Layout) -> TensorMap {
    let one = |spec: &TensorSpec| {
        let tensor = inputs.get(spec.name).filter(|_| spec.role == Role::Cache)?;
        let [batch, heads, len, dim] = axes(tensor.shape(), layout);
        let (values, at) = (tensor.to_f32(), layout.strides(heads, len, dim));
        let mut transposed = Vec::with_capacity(values.len());
        each_row(Layout::Bhnd, [batch, heads, len], |b, h, n| {
            transposed.extend_from_slice(&values[b * at.batch + h * at.head + n * at.token..][..dim]);
        });
        Some((spec.name.to_owned(), HostTensor::f32([batch, heads, len, dim], transposed)))
    };
    op.state.iter().filter_map(one).collect()
}

/// Calls `f` for every row of a tensor with these axes, in the order of that layout.
fn each_row(layout: Layout, [batch, heads, len]: [usize; 3], mut f: impl FnMut(usize, usize, usize)) {
    for b in 0..batch {
        match layout {
            Layout::Bhnd => (0..heads).for_each(|h| (0..len).for_each(|n| f(b, h, n))),
            Layout::Bnhd => (0..len).for_each(|n| (0..heads).for_each(|h| f(b, h, n))),
        }
    }
}
