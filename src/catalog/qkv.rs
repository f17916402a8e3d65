//! Axes and tensors shared by the rows of operators that work on [`Qkv`].

use super::request::Request;
use super::spec::{AxisDefault, Op, TensorSpec};
use crate::error::Error;
use crate::operator::qkv::Qkv;
use crate::tensor::Layout;

/// Inputs, in the order of [`Qkv::slots`].
pub const INPUTS: [TensorSpec; 3] =
    [TensorSpec::sequence("q", "B H N D"), TensorSpec::sequence("k", "B G M D"), TensorSpec::sequence("v", "B G M E")];

/// The output.
pub const OUTPUT: TensorSpec = TensorSpec::sequence("o", "B H N E");

/// Axes, with their default lengths in a random input.
pub const AXES: [(&str, AxisDefault); 7] = [
    ("B", AxisDefault::Length(1)),
    ("H", AxisDefault::Length(8)),
    ("G", AxisDefault::Same("H")),
    ("N", AxisDefault::Length(1024)),
    ("M", AxisDefault::Same("N")),
    ("D", AxisDefault::Length(64)),
    ("E", AxisDefault::Same("D")),
];

/// These axes and more of an operator's own behind them: `ALL` counts both.
pub const fn axes_and<const MORE: usize, const ALL: usize>(
    more: [(&'static str, AxisDefault); MORE],
) -> [(&'static str, AxisDefault); ALL] {
    assert!(ALL == AXES.len() + MORE, "as many axes as there are");
    let mut all = [AXES[0]; ALL];
    let mut i = 0;
    while i < ALL {
        all[i] = if i < AXES.len() { AXES[i] } else { more[i - AXES.len()] };
        i += 1;
    }
    all
}

/// Number of heads of v, if these can be more than those of k.
pub const VALUE_HEADS: (&str, AxisDefault) = ("V", AxisDefault::Same("G"));

/// Creates the [`Qkv`] from the shapes of q, k and v, which must agree with each other.
///
/// # Errors
/// One sentence that names the tensor.
pub fn of(op: &Op, request: &Request<'_>) -> Result<Qkv, Error> {
    read(op, request, false)
}

/// Does the same for an operator whose v may have more heads than k: a multiple of them.
///
/// # Errors
/// One sentence that names the tensor.
pub fn of_shared(op: &Op, request: &Request<'_>) -> Result<Qkv, Error> {
    read(op, request, true)
}

fn read(op: &Op, request: &Request<'_>, shares: bool) -> Result<Qkv, Error> {
    let axes = |spec: &TensorSpec| -> Result<[usize; 4], Error> {
        let d = request.required(op.name, spec)?.dims();
        Ok(match request.layout {
            Layout::Bhnd => [d[0], d[1], d[2], d[3]],
            Layout::Bnhd => [d[0], d[2], d[1], d[3]],
        })
    };
    let [q, k, v] = INPUTS;
    let [batch, heads, queries, dim_k] = axes(&q)?;
    let [batch_k, kv_heads, keys, dim_k2] = axes(&k)?;
    let [batch_v, heads_v, keys_v, dim_v] = axes(&v)?;
    for (tensor, what, expected, of, found) in [
        ("k", "batch B", batch, "q", batch_k),
        ("v", "batch B", batch, "q", batch_v),
        ("k", "key dim D", dim_k, "q", dim_k2),
        ("v", "length M", keys, "k", keys_v),
    ] {
        if expected != found {
            return Err(Error::tensor(op.name, tensor, format!("{what} = {expected} as in {of}"), found.to_string()));
        }
    }
    let sizes = Qkv::new().batch(batch).len(queries).keys(keys).dim(dim_k).dim_v(dim_v);
    let sizes = if heads_v == kv_heads {
        sizes.heads(heads).kv_heads(kv_heads)
    } else if shares && heads == kv_heads && heads_v.is_multiple_of(kv_heads) {
        sizes.heads(heads_v).kv_heads(heads_v).shared(heads_v / kv_heads)
    } else {
        let why = match (shares, heads == kv_heads) {
            (false, _) => "",
            (true, true) => " or a multiple of it",
            (true, false) => ", since q has other heads than k",
        };
        let expected = format!("heads G = {kv_heads} as in k{why}");
        return Err(Error::tensor(op.name, "v", expected, heads_v.to_string()));
    };
    Ok(sizes.dtype(request.dtype).layout(request.layout))
}
