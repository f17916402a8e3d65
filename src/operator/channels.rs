//! Shape and checks for tensors of channels along a sequence, `[B, C, N]` with the time axis innermost. `conv1d` and
//! `mamba` use it. Pure.

use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{self, Operand, Share, Step, Units, check_memory};
use crate::tensor::{Access, DType, Shape, Slot};

/// Shape and storage type of x and y, `[B, C, N]`. The axis order does not follow `--layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Channels {
    /// B: batch.
    pub batch: usize,
    /// C: channels.
    pub channels: usize,
    /// N: length.
    pub length: usize,
    /// Storage type: f32 or f16.
    pub dtype: DType,
}

impl Channels {
    /// A shape with f32 storage.
    pub const fn new(batch: usize, channels: usize, length: usize) -> Self {
        Self { batch, channels, length, dtype: DType::F32 }
    }

    /// Sets the length N.
    #[must_use]
    pub const fn length(self, length: usize) -> Self {
        Self { length, ..self }
    }

    /// Sets the storage type.
    #[must_use]
    pub const fn dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The shape `[B, C, N]`.
    pub fn shape(&self) -> Shape {
        [self.batch, self.channels, self.length].into()
    }

    /// Number of sequences: B times C.
    pub fn rows(&self) -> usize {
        self.batch * self.channels
    }

    /// Number of elements of x: B C N.
    pub fn elements(&self) -> f64 {
        self.batch as f64 * self.channels as f64 * self.length as f64
    }

    /// A slot of this shape and storage type.
    pub fn slot(&self, name: &'static str, access: Access) -> Slot {
        Slot::plain(name, access, self.dtype, self.shape()).along(2)
    }

    /// A slot of this shape and storage type with the channels innermost, `[B, N, C]`.
    pub fn slot_channels_last(&self, name: &'static str, access: Access) -> Slot {
        Slot::plain(name, access, self.dtype, [self.batch, self.length, self.channels]).along(1)
    }

    /// Checks the fields on their own: no axis of length 0, a float storage type, and a size that memory can hold.
    ///
    /// # Errors
    /// One sentence that names the axis or tensor.
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

    /// Refuses sequences longer than 2^30, because shaders compute the ends of tiles and segments in u32 and i32.
    ///
    /// # Errors
    /// [`Error::Limit`], which names the tensor.
    pub(crate) fn check_length(&self, op: &'static str) -> Result<(), Error> {
        let (needed, limit) = (self.length as u64, 1 << 30);
        if needed > limit {
            return Err(Error::Limit { op: op.into(), what: "tensor `x` (tokens)".into(), needed, limit });
        }
        Ok(())
    }

    /// Splits a step if the device's binding limit is smaller than one of the tensors in `slots`, which all have this
    /// shape, or with the channels innermost if `rows` are those of a batch entry.
    ///
    /// The step must number its workgroups so that the block of `rows` rows (batch, channel) is the slowest index.
    /// `block` names such a block in errors. The kernel reads the first element of its bindings from byte `base` of its
    /// uniform.
    ///
    /// # Errors
    /// [`Error::Limit`] if a single block does not fit.
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
        let mut steps = program::cut(op, step, &Units::whole(self.rows().div_ceil(rows) as u64, block), &shares, caps)?;
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
