//! Tensors in a `wgpu::Buffer`.

use std::ops::Range;
use std::sync::Arc;

use super::{DType, Shape};
use crate::error::Error;

/// A view of a `wgpu::Buffer`: an offset, a shape and a storage type. Cloning is cheap because the buffer is shared.
#[derive(Debug, Clone)]
pub struct Tensor {
    buffer: wgpu::Buffer,
    offset: u64,
    shape: Shape,
    dtype: DType,
    /// Elements from one index of an axis to the next, where the tensor is not one contiguous range that starts on a
    /// multiple of [`ALIGN`].
    strides: Option<Vec<usize>>,
    /// The context that made the buffer, where that is known.
    origin: Option<Origin>,
}

/// Tells the buffers made through one context from those of others: wgpu's own handles compare equal across instances.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin(Arc<()>);

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The portable alignment of a binding, in bytes.
const ALIGN: u64 = 256;

impl Tensor {
    /// A view of `bytes` of a buffer that the caller owns. It must be a buffer of the device that it is bound on: one
    /// of another device of the same `wgpu::Instance` is refused when it is bound, one of another instance wgpu takes
    /// for one of its own.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the range has another size than the shape needs, exceeds the buffer, or does not start on a
    /// multiple of 256 (the portable binding alignment), or if the buffer lacks `STORAGE` usage.
    pub fn view(
        buffer: &wgpu::Buffer,
        bytes: Range<u64>,
        shape: impl Into<Shape>,
        dtype: DType,
    ) -> Result<Self, Error> {
        let shape = shape.into();
        let refuse = |expected: String, found: String| Err(Error::tensor("view", "buffer", expected, found));
        let needed = shape.checked_count().and_then(|n| n.checked_mul(dtype.size() as u64));
        let Some(needed) = needed else {
            return refuse("a shape whose bytes fit u64".into(), shape.to_string());
        };
        let found = bytes.end.saturating_sub(bytes.start);
        // An odd number of f16 values ends inside a 4-byte word. The binding is rounded up, so the buffer must be large
        // enough.
        if found != needed && found != needed.next_multiple_of(4) {
            return refuse(format!("{needed} bytes for {dtype} {shape}"), format!("{found} bytes"));
        }
        if bytes.start.saturating_add(needed.next_multiple_of(4)) > buffer.size() {
            let end = bytes.start.saturating_add(needed.next_multiple_of(4));
            return refuse(format!("a buffer of at least {end} bytes"), format!("{} bytes", buffer.size()));
        }
        if !bytes.start.is_multiple_of(ALIGN) {
            return refuse(format!("an offset that is a multiple of {ALIGN}"), bytes.start.to_string());
        }
        Self::on(buffer, bytes.start, shape, dtype, None)
    }

    /// A view with strides: `strides[a]` elements from one index of axis `a` to the next, of which the last is 1. So bind q, k
    /// and v of a fused projection, and the part of a key/value cache that is filled, without a copy. `offset` is the byte of
    /// the first element.
    ///
    /// An operator takes it for q, k, v and o where it says so; the others refuse it when they are bound.
    ///
    /// ```
    /// # use subquad::tensor::{DType, Tensor};
    /// # fn heads(buffer: &wgpu::Buffer) -> Result<[Tensor; 3], subquad::Error> {
    /// // q, k and v of a projection [B, N, 3, H, D], as tensors [B, H, N, D].
    /// let [b, n, h, d] = [2, 100, 8, 64];
    /// let strides = [n * 3 * h * d, d, 3 * h * d, 1];
    /// let part = |i: usize| Tensor::strided(buffer, (i * h * d * 4) as u64, [b, h, n, d], strides, DType::F32);
    /// Ok([part(0)?, part(1)?, part(2)?])
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Tensor`] if shape and strides differ in rank, the last stride is not 1, the offset is not a multiple of an
    /// element, the last element lies beyond the buffer, or the buffer lacks `STORAGE` usage.
    pub fn strided(
        buffer: &wgpu::Buffer,
        offset: u64,
        shape: impl Into<Shape>,
        strides: impl Into<Vec<usize>>,
        dtype: DType,
    ) -> Result<Self, Error> {
        let (shape, mut strides) = (shape.into(), strides.into());
        let refuse = |expected: String, found: String| Err(Error::tensor("strided", "buffer", expected, found));
        if strides.len() != shape.rank() || shape.rank() == 0 {
            return refuse(format!("a stride for each axis of {shape}"), format!("{} strides", strides.len()));
        }
        if let Some(axis) = shape.dims().iter().position(|length| *length == 0) {
            return refuse("axes of length 1 or more".into(), format!("axis {axis} of length 0"));
        }
        let size = dtype.size() as u64;
        if !offset.is_multiple_of(size) {
            return refuse(format!("an offset that is a multiple of {size} bytes"), offset.to_string());
        }
        // An axis of length 1 has one index, 0, whatever its stride.
        let last = shape.rank() - 1;
        strides.iter_mut().zip(shape.dims()).filter(|(_, length)| **length == 1).for_each(|(stride, _)| *stride = 0);
        if shape.dims()[last] == 1 {
            strides[last] = 1;
        }
        if strides[last] != 1 {
            return refuse("a last stride of 1".into(), strides[last].to_string());
        }
        let end = span(&shape, &strides)
            .and_then(|elements| elements.checked_mul(size))
            .and_then(|bytes| bytes.checked_add(offset))
            .map(|end| end.next_multiple_of(4));
        let Some(end) = end else {
            return refuse("strides whose bytes fit u64".into(), format!("{shape} with strides {strides:?}"));
        };
        if end > buffer.size() {
            return refuse(format!("a buffer of at least {end} bytes"), format!("{} bytes", buffer.size()));
        }
        let plain = offset.is_multiple_of(ALIGN) && contiguous(&shape, &strides);
        Self::on(buffer, offset, shape, dtype, Some(strides).filter(|_| !plain))
    }

    fn on(
        buffer: &wgpu::Buffer,
        offset: u64,
        shape: Shape,
        dtype: DType,
        strides: Option<Vec<usize>>,
    ) -> Result<Self, Error> {
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            let found = format!("{:?}", buffer.usage());
            return Err(Error::tensor("view", "buffer", "a buffer with STORAGE usage", found));
        }
        Ok(Self { buffer: buffer.clone(), offset, shape, dtype, strides, origin: None })
    }

    /// In a buffer made through that context.
    pub(crate) fn of(self, origin: &Origin) -> Self {
        Self { origin: Some(origin.clone()), ..self }
    }

    /// Whether its buffer is known to be of another context.
    pub(crate) fn is_foreign(&self, origin: &Origin) -> bool {
        self.origin.as_ref().is_some_and(|own| own != origin)
    }

    /// The underlying buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// First byte within the buffer.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Axis lengths.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements from one index of an axis to the next, of a view made by [`Tensor::strided`] that must be bound with them;
    /// `None` for a contiguous tensor.
    pub fn strides(&self) -> Option<&[usize]> {
        self.strides.as_deref()
    }

    /// Bytes of the values.
    pub fn bytes(&self) -> u64 {
        self.shape.count() as u64 * self.dtype.size() as u64
    }

    /// Bytes from the first value to the last, with what lies between them.
    pub fn span_bytes(&self) -> u64 {
        let strided = self.strides.as_ref().and_then(|strides| span(&self.shape, strides));
        strided.map_or(self.bytes(), |elements| elements * self.dtype.size() as u64)
    }

    /// Size of the binding in bytes: rounded up to a multiple of 4, as bindings require.
    pub fn binding_bytes(&self) -> u64 {
        self.span_bytes().next_multiple_of(4)
    }

    /// Whether no two indices name one element, as a tensor that is written needs: each axis steps over all that the axes with
    /// shorter steps reach.
    pub(crate) fn is_disjoint(&self) -> bool {
        let Some(strides) = &self.strides else { return true };
        let mut axes: Vec<_> = self.shape.dims().iter().zip(strides).filter(|(length, _)| **length > 1).collect();
        axes.sort_unstable_by_key(|(_, stride)| **stride);
        let mut reach = 0;
        axes.iter().all(|(length, stride)| {
            let apart = **stride > reach;
            reach += (**length - 1) * **stride;
            apart
        })
    }
}

/// Elements from the first to the last; `None` where they pass u64.
fn span(shape: &Shape, strides: &[usize]) -> Option<u64> {
    shape.dims().iter().zip(strides).try_fold(1u64, |end, (length, stride)| {
        (*length as u64).checked_sub(1)?.checked_mul(*stride as u64)?.checked_add(end)
    })
}

/// Whether the strides are those of a tensor without gaps. Axes of length 1 have none that matters.
fn contiguous(shape: &Shape, strides: &[usize]) -> bool {
    let mut step = 1;
    shape.dims().iter().zip(strides).rev().all(|(length, stride)| {
        let fits = *length == 1 || *stride == step;
        step *= length;
        fits
    })
}
