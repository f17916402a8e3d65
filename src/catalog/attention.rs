//! Tensors and flags shared by the rows of operators that weigh keys pair by pair.

use super::domain::Domain;
use super::flags::{Flag, FlagKind, Flags};
use super::request::Request;
use super::spec::{Draw, TensorSpec};
use crate::error::Error;
use crate::operator::pairs::{Align, Pairs};
use crate::operator::qkv::Qkv;
use crate::tensor::Shape;

/// Number of keys of each batch entry.
pub const LENGTHS: TensorSpec = TensorSpec::weight("lengths", "B").of(Domain::Count).drawn(Draw::Lengths("M"));

/// Added to the scores.
pub const BIAS: TensorSpec =
    TensorSpec::stream("bias", "1|B 1|H N M").optional().of(Domain::Logarithm).drawn(Draw::Shaped(some_hidden));

/// Hides pairs of a query and a key.
pub const MASK: TensorSpec =
    TensorSpec::stream("mask", "1|B 1|H N M").optional().of(Domain::Mask).drawn(Draw::Shaped(some_shown));

/// A score for each query head that joins the sums. Minus infinity is no sink.
pub const SINK: TensorSpec = TensorSpec::weight("sink", "H");

/// The logarithm of the sum of exponentials of every row.
pub const LSE: TensorSpec = TensorSpec::stream("lse", "B H N").optional().of(Domain::Logarithm);

/// Keys and values of earlier runs.
pub const CACHE: [TensorSpec; 2] = [TensorSpec::cache("k", "B G M D"), TensorSpec::cache("v", "B G M E")];

/// The alignment of causal queries.
pub const ALIGN: Flag = Flag {
    name: "align",
    kind: FlagKind::Choice(Align::WORDS),
    help: "Causal with N != M: the last query is at the last key (end), or the first at the first (start) [default: end]",
};

/// The alignment that the flags ask for.
pub fn align(flags: &Flags) -> Align {
    flags.word(ALIGN.name).and_then(Align::named).unwrap_or_default()
}

/// Refuses what a key/value cache cannot be used with.
///
/// # Errors
/// [`Error::Setting`] or [`Error::Tensor`].
pub fn check_cache(op: &'static str, request: &Request<'_>) -> Result<(), Error> {
    if !request.carry {
        return Ok(());
    }
    if align(request.flags) == Align::Start {
        return Err(Error::rule(op, ALIGN.name, crate::operator::pairs::WITH_CACHE));
    }
    match request.shape("cu_seqlens") {
        Some(shape) => {
            let expected = "none with a state file, whose keys and values belong to one sequence";
            Err(Error::tensor(op, "cu_seqlens", expected, shape.to_string()))
        }
        None => Ok(()),
    }
}

/// The axes of a tensor of pairs, if it is given.
///
/// # Errors
/// [`Error::Tensor`] if its shape does not fit.
pub fn pairs(op: &'static str, request: &Request<'_>, spec: &TensorSpec, s: &Qkv) -> Result<Option<Pairs>, Error> {
    let Some(shape) = request.optional(op, spec)? else { return Ok(None) };
    let d = shape.dims();
    match Pairs::of(s, [d[0], d[1]]).filter(|_| d[2..] == [s.queries, s.keys]) {
        Some(pairs) => Ok(Some(pairs)),
        None => {
            let axis = |length: usize| if length == 1 { "1".to_owned() } else { format!("1 or {length}") };
            let expected = format!("[{}, {}, {}, {}]", axis(s.batch), axis(s.heads), s.queries, s.keys);
            Err(Error::tensor(op, spec.name, expected, shape.to_string()))
        }
    }
}

/// Numbers of which a tenth are minus infinity.
fn some_hidden(_: &Shape, values: &mut [f32]) {
    values.iter_mut().filter(|x| **x > 1.28).for_each(|x| *x = f32::NEG_INFINITY);
}

/// Ones of which a sixth are 0, and all of the second query of each head.
fn some_shown(shape: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = f32::from(u8::from(*x < 1.0)));
    let [.., queries, keys] = *shape.dims() else { return };
    values.chunks_exact_mut(keys).skip(1).step_by(queries.max(1)).for_each(|row| row.fill(0.0));
}
