//! Slots: the tensors that an operator binds, with the exact contents of each buffer.

use super::{DType, Shape};

/// How an operator uses a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    Read,
    /// Completely overwritten; the previous contents do not matter.
    Write,
    /// Read, then updated in place (state).
    Update,
}

/// One binding of an operator at a shape, with the exact contents of the buffer.
///
/// A slot with one part is a plain tensor. A slot with several parts is a pack (see [`crate::gpu::pack`]): small
/// tensors that share one binding, because a portable device allows only eight per kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Name of the binding: `q`, `o`, `state`.
    pub name: &'static str,
    /// How it is used.
    pub access: Access,
    /// Storage type of the buffer.
    pub dtype: DType,
    /// The tensors in it, in order.
    pub parts: Vec<Part>,
}

/// A named tensor inside a [`Slot`].
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Name in files: `q`, `state`, `norm`.
    pub name: &'static str,
    /// Axis lengths.
    pub shape: Shape,
    /// First element within the slot.
    pub offset: usize,
    /// Storage type in files: the storage type of the slot, I64 for a count, or U8 for a mask. A count occupies two 4-byte
    /// elements of the slot, with the low word first; a mask has its bits in words ([`super::HostTensor::to_bits`]).
    pub dtype: DType,
    /// Initial value of its elements if it is not given.
    pub initial: f32,
    /// Number of consecutive copies in the slot. If every workgroup reads and advances a count, each workgroup has its
    /// own copy.
    pub copies: usize,
    /// The axis along the sequence; `None` for a tensor that belongs to the sequence as a whole.
    pub tokens: Option<usize>,
    /// Elements within the slot from one index of the first axis to the next; `None` if the tensor is contiguous there.
    /// Tensors with a pitch lie side by side, as columns of the rows of a wider matrix.
    pub pitch: Option<usize>,
}

impl Part {
    /// A part with the storage type of the slot, zero initial values and one copy.
    pub fn new(name: &'static str, shape: impl Into<Shape>, dtype: DType) -> Self {
        Self { name, shape: shape.into(), offset: 0, dtype, initial: 0.0, copies: 1, tokens: None, pitch: None }
    }

    /// Number of elements that it occupies in a slot of this storage type, including all copies, and with a pitch those
    /// between its rows; `None` if it exceeds u64.
    pub fn elements(&self, slot: DType) -> Option<u64> {
        if self.dtype == DType::U8 {
            return self.in_words().checked_count();
        }
        if let Some(pitch) = self.pitch {
            let rows = self.shape.dims().first().copied().unwrap_or(1);
            let before = rows.saturating_sub(1).checked_mul(pitch)?;
            return self.row().checked_add(before as u64);
        }
        let each = if self.dtype == slot { 1 } else { self.dtype.size().div_ceil(slot.size()) };
        self.shape.checked_count()?.checked_mul((each * self.copies) as u64)
    }
}

impl Part {
    /// Elements of one index of the first axis; saturates.
    fn row(&self) -> u64 {
        self.shape.dims().iter().skip(1).fold(1, |count, axis| count.saturating_mul(*axis as u64))
    }

    /// Where its elements lie in the slot, if it is stored once: the first element of each contiguous piece, in order, and
    /// how many each has.
    pub(crate) fn pieces(&self) -> (Vec<usize>, usize) {
        match self.pitch {
            None => (vec![self.offset], self.shape.count()),
            Some(pitch) => {
                let rows = self.shape.dims().first().copied().unwrap_or(1);
                ((0..rows).map(|row| self.offset + row * pitch).collect(), self.row() as usize)
            }
        }
    }

    /// The shape of a mask in words of 32 elements.
    fn in_words(&self) -> Shape {
        let mut dims = self.shape.dims().to_vec();
        dims.iter_mut().last().into_iter().for_each(|row| *row = row.div_ceil(32));
        dims.into()
    }
}

impl Slot {
    /// A mask: 8 bits per element in files and on the host, one bit on a GPU.
    pub fn mask(name: &'static str, shape: impl Into<Shape>) -> Self {
        Self { name, access: Access::Read, dtype: DType::U32, parts: vec![Part::new(name, shape, DType::U8)] }
    }

    /// A plain tensor.
    pub fn plain(name: &'static str, access: Access, dtype: DType, shape: impl Into<Shape>) -> Self {
        Self { name, access, dtype, parts: vec![Part::new(name, shape, dtype)] }
    }

    /// Says that this axis of a plain tensor runs along the sequence.
    #[must_use]
    pub fn along(mut self, axis: usize) -> Self {
        self.parts.iter_mut().for_each(|part| part.tokens = Some(axis));
        self
    }

    /// Shape of the tensor to bind: that of the only part (of a mask in words), or `[length]` of a pack.
    pub fn shape(&self) -> Shape {
        match self.parts.as_slice() {
            [only] if only.dtype == DType::U8 => only.in_words(),
            [only] => only.shape.clone(),
            _ => [self.checked_count().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)].into(),
        }
    }

    /// Elements of the whole slot; `None` if they exceed u64.
    pub fn checked_count(&self) -> Option<u64> {
        let mut end = 0u64;
        for part in &self.parts {
            end = end.max((part.offset as u64).checked_add(part.elements(self.dtype)?)?);
        }
        Some(end)
    }

    /// Bytes of the whole slot; `None` if they exceed u64.
    pub fn checked_bytes(&self) -> Option<u64> {
        self.checked_count()?.checked_mul(self.dtype.size() as u64)
    }
}
