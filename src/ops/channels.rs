//! Channels along a sequence, `[B, C, N]` with the time fastest: the shapes that `conv1d` and `mamba` have in common. Pure.

use super::{AxisDefault, Op, Request, TensorSpec};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{self, Operand, Share, Step, check_memory};
use crate::tensor::{Access, DType, Shape, Slot};

/// Shape of x and y, `[B, C, N]`, and their storage. It does not follow `--layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    /// B: batch.
    pub batch: usize,
    /// C: channels.
    pub channels: usize,
    /// N: length.
    pub length: usize,
    /// Storage: f32 or f16.
    pub dtype: DType,
}

/// The input.
pub const X: TensorSpec = TensorSpec::stream("x", "B C N");

/// The output.
pub const Y: TensorSpec = TensorSpec::stream("y", "B C N");

/// Axes, with the lengths of a made-up input.
pub const AXES: [(&str, AxisDefault); 3] =
    [("B", AxisDefault::Length(1)), ("C", AxisDefault::Length(1024)), ("N", AxisDefault::Length(1024))];

impl Channels {
    /// In f32.
    pub const fn new(batch: usize, channels: usize, length: usize) -> Self {
        Self { batch, channels, length, dtype: DType::F32 }
    }

    /// With this length.
    pub const fn length(self, length: usize) -> Self {
        Self { length, ..self }
    }

    /// With this storage.
    pub const fn dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// From the shape of x.
    ///
    /// # Errors
    /// One sentence naming the tensor.
    pub fn of(op: &Op, request: &Request<'_>) -> Result<Self, Error> {
        let dims = request.required(op.name, &X)?.dims();
        Ok(Self { batch: dims[0], channels: dims[1], length: dims[2], dtype: request.dtype })
    }

    /// `[B, C, N]`.
    pub fn shape(&self) -> Shape {
        [self.batch, self.channels, self.length].into()
    }

    /// Sequences: batch times channels.
    pub fn rows(&self) -> usize {
        self.batch * self.channels
    }

    /// Elements of x.
    pub fn elements(&self) -> f64 {
        self.batch as f64 * self.channels as f64 * self.length as f64
    }

    /// A tensor of this shape.
    pub fn slot(&self, name: &'static str, access: Access) -> Slot {
        Slot::plain(name, access, self.dtype, self.shape())
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the axis or tensor.
    pub fn validate(&self, op: &'static str) -> Result<(), Error> {
        for (axis, length) in [("B", self.batch), ("C", self.channels), ("N", self.length)] {
            if length == 0 {
                return Err(Error::setting(op, axis, "1 or more", "0"));
            }
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(op, "x", "f32 or f16", self.dtype.name()));
        }
        check_memory(op, &[self.slot("x", Access::Read)])
    }

    /// Refuses settings of the walk that do not go together.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub(crate) fn check_walk(
        &self,
        op: &'static str,
        carry: bool,
        decode: bool,
        segment: Option<usize>,
    ) -> Result<(), Error> {
        if decode && !carry {
            return Err(Error::setting(op, "decode", "a carried state", "none"));
        }
        if decode && self.length != 1 {
            return Err(Error::tensor(op, "x", "N = 1 to decode", format!("N = {}", self.length)));
        }
        if segment == Some(0) {
            return Err(Error::setting(op, "segment", "1 or more", "0"));
        }
        if decode && segment.is_some() {
            return Err(Error::setting(op, "segment", "none to decode one token", "a length"));
        }
        Ok(())
    }

    /// Refuses sequences longer than 2^30: shaders compute in u32 and i32 where tiles and segments end.
    ///
    /// # Errors
    /// [`Error::Limit`] naming the tensor.
    pub(crate) fn check_length(&self, op: &'static str) -> Result<(), Error> {
        let (needed, limit) = (self.length as u64, 1 << 30);
        if needed > limit {
            return Err(Error::Limit { op: op.into(), what: "tensor `x` (tokens)".into(), needed, limit });
        }
        Ok(())
    }

    /// Cuts a step whose workgroups are numbered with blocks of so many rows (batch, channel) slowest, where one binding
    /// cannot hold the tensors of those `slots` whole, all of this shape. The uniform has the first element of their
    /// bindings at byte `base`.
    ///
    /// # Errors
    /// [`Error::Limit`] if not even one block fits.
    pub(crate) fn cut(
        &self,
        op: &'static str,
        step: Step,
        (rows, block): (usize, &str),
        slots: &[(usize, &'static str)],
        base: usize,
        caps: &Caps,
    ) -> Result<Vec<Step>, Error> {
        let elements = rows as u64 * self.length as u64;
        let shares: Vec<_> = slots
            .iter()
            .filter_map(|&(slot, name)| {
                let operand = step.operands.iter().position(|operand| *operand == Operand::Slot(slot))?;
                Some(Share { operand, name, size: self.dtype.size() as u64, elements, base })
            })
            .collect();
        let mut steps = program::cut(op, step, self.rows().div_ceil(rows) as u64, block, &shares, caps)?;
        // The last block may have fewer rows.
        let all = self.rows() as u64 * self.length as u64;
        for operand in steps.iter_mut().flat_map(|step| &mut step.operands) {
            if let Operand::Part { first, count, .. } = operand {
                *count = (*count).min(all - *first);
            }
        }
        Ok(steps)
    }
}
