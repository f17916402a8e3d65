//! A user's request to an operator: the flags, and the shapes of the tensors given.

use super::flags::Flags;
use super::recurrent::CU_SEQLENS;
use super::spec::TensorSpec;
use crate::error::Error;
use crate::operator::mode::{Direction, Mode, StateLayout};
use crate::tensor::{DType, Layout, Shape};

/// The input of [`Op::configure`](super::spec::Op::configure).
#[derive(Debug)]
pub struct Request<'a> {
    /// Flags as given.
    pub flags: &'a Flags,
    /// Shapes of the tensors given. Those of sequence tensors have full rank, in the order of `layout`.
    pub shapes: &'a [(String, Shape)],
    /// Axis order of sequence tensors.
    pub layout: Layout,
    /// Storage type of sequence tensors.
    pub dtype: DType,
    /// Whether state is read in or written out.
    pub carry: bool,
}

impl Request<'_> {
    /// The mode that the flags and state files ask for.
    ///
    /// # Errors
    /// [`Error::Usage`] if `--segment` is not a whole number of 1 or more, [`Error::Tensor`] if `cu_seqlens` has another rank
    /// than 1.
    pub fn mode(&self, op: &'static str) -> Result<Mode, Error> {
        Ok(Mode {
            causal: self.flags.switch("causal").unwrap_or(true),
            carry: self.carry,
            decode: self.flags.switch("decode").unwrap_or(false),
            segment: self.flags.count(op, "segment")?,
            sequences: self.optional(op, &CU_SEQLENS)?.map(|shape| shape.dims()[0] - 1),
            direction: self.flags.word("direction").and_then(Direction::named).unwrap_or_default(),
            state_layout: self.flags.word("state-layout").and_then(StateLayout::named).unwrap_or_default(),
        })
    }

    /// Shape of the tensor of that name, if it was given.
    pub fn shape(&self, name: &str) -> Option<&Shape> {
        self.shapes.iter().find(|(n, _)| n == name).map(|(_, s)| s)
    }

    /// Shape of a tensor that the operator requires. It must have the rank of `spec` and no axis of length 0.
    pub fn required(&self, op: &'static str, spec: &TensorSpec) -> Result<&Shape, Error> {
        let Some(shape) = self.shape(spec.name) else {
            let given: Vec<_> = self.shapes.iter().map(|(n, _)| n.as_str()).collect();
            let instead = spec.alternative.map_or_else(String::new, |other| format!(", or `{other}` in its place"));
            return Err(Error::Missing {
                op,
                tensor: spec.name.into(),
                expected: spec.forms(self.layout) + &instead,
                given: if given.is_empty() { "none".into() } else { given.join(", ") },
            });
        };
        self.form(op, spec, shape)?;
        Ok(shape)
    }

    /// Shape of an optional tensor, if it was given. It is checked in the same way as by [`Request::required`].
    pub fn optional(&self, op: &'static str, spec: &TensorSpec) -> Result<Option<&Shape>, Error> {
        self.shape(spec.name).map(|shape| self.form(op, spec, shape).map(|()| shape)).transpose()
    }

    fn form(&self, op: &'static str, spec: &TensorSpec, shape: &Shape) -> Result<(), Error> {
        if !spec.has_rank(shape.rank()) {
            let mut ranks: Vec<_> = spec.each_form(self.layout).map(|(_, letters)| letters.len()).collect();
            ranks.sort_unstable();
            ranks.dedup();
            let ranks: Vec<_> = ranks.iter().map(ToString::to_string).collect();
            let expected = format!("rank {} {}", ranks.join(" or "), spec.forms(self.layout));
            return Err(Error::tensor(op, spec.name, expected, format!("rank {} {shape}", shape.rank())));
        }
        if shape.dims().contains(&0) {
            return Err(Error::tensor(op, spec.name, "axes of length 1 or more", shape.to_string()));
        }
        Ok(())
    }
}
