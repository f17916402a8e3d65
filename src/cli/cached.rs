//! State that is a sequence tensor so far ([`Role::Cache`]): what a run goes on from stands in front of the tokens given.

use crate::error::Error;
use crate::ops::{Op, Role, TensorSpec};
use crate::tensor::{DType, HostTensor, Layout, TensorMap};

/// The row's description of the cache of that name, if it is one.
pub fn of<'a>(op: &'a Op, name: &str) -> Option<&'a TensorSpec> {
    op.state.iter().find(|spec| spec.role == Role::Cache && spec.name == name)
}

/// B, heads, length and dim of a tensor in that layout.
fn axes(tensor: &HostTensor, layout: Layout) -> [usize; 4] {
    match *tensor.shape().dims() {
        [b, h, n, d] if layout == Layout::Bhnd => [b, h, n, d],
        [b, n, h, d] => [b, h, n, d],
        _ => [0; 4],
    }
}

/// With a state file every token given has its own: as many as `lead`, the first sequence tensor, has.
///
/// # Errors
/// [`Error::Tensor`].
pub fn check(op: &Op, spec: &TensorSpec, tensor: &HostTensor, lead: &HostTensor, layout: Layout) -> Result<(), Error> {
    let [wanted, found] = [lead, tensor].map(|tensor| axes(tensor, layout)[2]);
    if wanted == found {
        return Ok(());
    }
    let lead = op.inputs.first().map_or("", |lead| lead.name);
    let expected = format!("length M = {wanted} as in {lead} with a state file");
    Err(Error::tensor(op.name, spec.name, expected, found.to_string()))
}

/// The cache, `[B, G, M, D]` whatever the layout, and the tokens of `tensor` behind it.
///
/// # Errors
/// [`Error::Tensor`] if it has not the heads and dims of `tensor`.
pub fn extend(
    op: &Op,
    spec: &TensorSpec,
    cache: &HostTensor,
    tensor: &HostTensor,
    layout: Layout,
) -> Result<HostTensor, Error> {
    let [batch, heads, new, dim] = axes(tensor, layout);
    let [b, h, old, d] = axes(cache, Layout::Bhnd);
    if [batch, heads, dim] != [b, h, d] || cache.dtype() == DType::I64 || old == 0 {
        let expected = format!("f32 [{batch}, {heads}, M, {dim}] in the state file");
        return Err(Error::tensor(op.name, spec.name, expected, format!("{} {}", cache.dtype(), cache.shape())));
    }
    let (before, after) = (cache.to_f32(), tensor.to_f32());
    let [from_before, from_after] =
        [(Layout::Bhnd, old), (layout, new)].map(|(layout, n)| (layout.strides(heads, n, dim), n));
    let mut values = Vec::with_capacity(before.len() + after.len());
    each_row(layout, [batch, heads, old + new], |b, h, n| {
        let (source, (at, _), n) = if n < old { (&before, from_before, n) } else { (&after, from_after, n - old) };
        values.extend_from_slice(&source[b * at.batch + h * at.head + n * at.token..][..dim]);
    });
    Ok(HostTensor::f32(layout.shape(batch, heads, old + new, dim), values).cast(tensor.dtype()))
}

/// All caches of the row as a state file has them, f32 `[B, G, M, D]`, from what the operator read.
pub fn kept(op: &Op, inputs: &TensorMap, layout: Layout) -> TensorMap {
    let one = |spec: &TensorSpec| {
        let tensor = inputs.get(spec.name).filter(|_| spec.role == Role::Cache)?;
        let [batch, heads, len, dim] = axes(tensor, layout);
        let (values, at) = (tensor.to_f32(), layout.strides(heads, len, dim));
        let mut turned = Vec::with_capacity(values.len());
        each_row(Layout::Bhnd, [batch, heads, len], |b, h, n| {
            turned.extend_from_slice(&values[b * at.batch + h * at.head + n * at.token..][..dim]);
        });
        Some((spec.name.to_owned(), HostTensor::f32([batch, heads, len, dim], turned)))
    };
    op.state.iter().filter_map(one).collect()
}

/// Every row of a tensor of these axes, in the order it has in that layout.
fn each_row(layout: Layout, [batch, heads, len]: [usize; 3], mut f: impl FnMut(usize, usize, usize)) {
    for b in 0..batch {
        match layout {
            Layout::Bhnd => (0..heads).for_each(|h| (0..len).for_each(|n| f(b, h, n))),
            Layout::Bnhd => (0..len).for_each(|n| (0..heads).for_each(|h| f(b, h, n))),
        }
    }
}
