//! How a layer uses an operator: the projections in front of it, the convolution, norm and gate around it. One file per form;
//! the operators of one form share it.

mod conv1d;
mod heads;
mod mamba;
mod ssd;

use super::builder::Builder;
use super::graph::View;
use super::spec::Layer;
use crate::error::Error;
use crate::ops;

/// A form of mixers.
pub(crate) struct Form {
    /// The operators that have it.
    pub operators: &'static [&'static str],
    /// The sizes that a layer of our own form may say, besides the flags of the operator.
    pub sizes: &'static [&'static str],
    build: fn(&mut Builder<'_>, &Layer, &View) -> Result<Mixed, Error>,
}

/// Every form.
pub(crate) static FORMS: &[Form] = &[heads::FORM, mamba::FORM, ssd::FORM, conv1d::FORM];

/// The output of a mixer, before its last projection.
pub(crate) struct Mixed {
    /// `[N, K]`, or `[K, N]` if `columns`.
    pub x: View,
    pub columns: bool,
    /// Name of the last projection.
    pub name: &'static str,
}

impl Form {
    /// The form of an operator.
    pub(crate) fn of(op: &str) -> Option<&'static Self> {
        FORMS.iter().find(|form| form.operators.contains(&op))
    }
}

/// Builds a mixer on the rows x `[N, d]`.
pub(crate) fn build(b: &mut Builder<'_>, layer: &Layer, x: &View) -> Result<Mixed, Error> {
    match Form::of(layer.op.name) {
        Some(form) => (form.build)(b, layer, x),
        None => {
            let names: Vec<_> = ops::OPS.iter().map(|op| op.name).collect();
            Err(Error::setting(b.spec.family, "mixer", format!("one of {}", names.join(", ")), layer.op.name))
        }
    }
}

impl Layer {
    /// A size: what the layer says, which a tensor may not contradict, or what the tensor says, or a default.
    pub(crate) fn sized(
        &self,
        family: &'static str,
        name: &'static str,
        of_tensor: Option<usize>,
        default: Option<usize>,
    ) -> Result<usize, Error> {
        match (self.sizes.get(name).copied(), of_tensor) {
            (Some(said), Some(found)) if said != found => {
                Err(Error::setting(family, name, format!("{found} as the tensors have it"), said.to_string()))
            }
            (Some(size), _) | (None, Some(size)) => Ok(size),
            (None, None) => default.ok_or_else(|| Error::setting(family, name, "a whole number of 1 or more", "none")),
        }
    }
}

/// A row of the table of operators.
fn operator(name: &'static str) -> &'static crate::catalog::spec::Op {
    ops::find(name).unwrap_or_else(|| unreachable!("no operator {name}"))
}

/// The flags that are those of the layer's operator, and not of the convolution in front of it.
fn own_flags(layer: &Layer) -> crate::catalog::flags::Flags {
    let mut flags = crate::catalog::flags::Flags::new();
    for (name, value) in layer.flags.iter().filter(|(name, _)| layer.op.flag(name).is_some()) {
        flags.set(name, value);
    }
    flags
}
