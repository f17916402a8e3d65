//! Reads tiles of rows from tensors, and writes tiles of rows to outputs.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::matrix::Mat;
use super::simd::{dot, scale};
use super::threads::reserve;
use crate::tensor::{DType, HostTensor, Layout, Strides, Values};

/// A map applied to the rows of a tensor as they are loaded; `None` is the identity.
pub(crate) type Map = Option<fn(&mut [f32])>;

/// A tensor along the sequence that is read in tiles: some tokens of one head.
pub(crate) struct Source<'a> {
    values: &'a Values,
    strides: Strides,
    dim: usize,
    map: Map,
    /// If set, each row is divided by the root of its sum of squares plus this, before the map.
    unit: Option<f32>,
}

impl<'a> Source<'a> {
    /// `tensor` must be f32 or f16 and have full rank, with its axes in the order of `layout`. If there is no last
    /// axis, a row is one element.
    pub(crate) fn new(tensor: &'a HostTensor, layout: Layout, map: Map) -> Self {
        let dims = tensor.shape().dims();
        let (heads, len) = match layout {
            Layout::Bhnd => (dims[1], dims[2]),
            Layout::Bnhd => (dims[2], dims[1]),
        };
        let dim = dims.get(3).copied().unwrap_or(1);
        Self { values: tensor.values(), strides: layout.strides(heads, len, dim), dim, map, unit: None }
    }

    /// Divides each row by `sqrt(sum of squares + eps)` before the map.
    pub(crate) fn unit(self, eps: Option<f32>) -> Self {
        Self { unit: eps, ..self }
    }

    /// The rows of these tokens as f32, with the map applied. f32 rows without a map are returned in place. Others are
    /// written to `space`, which must have room for the tile.
    pub(crate) fn tile<'b>(&'b self, batch: usize, head: usize, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        let Strides { batch: b, head: h, token } = self.strides;
        let start = batch * b + head * h + tokens.start * token;
        let span = start..start + (tokens.len() - 1) * token + self.dim;
        let space = &mut space[..tokens.len() * self.dim];
        match self.values {
            Values::F32(x) if self.map.is_none() && self.unit.is_none() => return Mat::rows(&x[span], token),
            Values::F32(x) => {
                for (to, from) in space.chunks_exact_mut(self.dim).zip(x[span].chunks(token)) {
                    to.copy_from_slice(&from[..self.dim]);
                }
            }
            Values::F16(x) => {
                for (to, from) in space.chunks_exact_mut(self.dim).zip(x[span].chunks(token)) {
                    from[..self.dim].convert_to_f32_slice(to);
                }
            }
            Values::I64(_) | Values::I32(_) | Values::U32(_) | Values::U8(_) => {
                unreachable!("sequence tensors are f32 or f16")
            }
        }
        if let Some(eps) = self.unit {
            for row in space.chunks_exact_mut(self.dim) {
                let length = (dot(row, row) + eps).sqrt();
                row.iter_mut().for_each(|x| *x /= length);
            }
        }
        if let Some(map) = self.map {
            map(space);
        }
        Mat::rows(space, self.dim)
    }
}

/// An output along the sequence that several threads write in tiles. Its memory is not initialised, because that would
/// cost as much as writing it.
pub(crate) struct Output {
    pub(super) values: Values,
    pub(super) pointer: Pointer,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) len: usize,
    pub(super) dim: usize,
    pub(super) layout: Layout,
    pub(super) written: AtomicUsize,
}

#[derive(Clone, Copy)]
pub(super) enum Pointer {
    F32(*mut f32),
    F16(*mut f16),
}

// SAFETY: the pointers are only used for writing, by `Output::store` and its variants, whose callers write different
// rows. `values` is not used until `Output::finish`, which takes the output by value.
unsafe impl Sync for Output {}

impl Output {
    /// Allocates room for `[batch, heads, len, dim]` in the order of `layout`.
    pub(crate) fn new(dtype: DType, layout: Layout, [batch, heads, len, dim]: [usize; 4]) -> Self {
        let count = batch * heads * len * dim;
        let (values, pointer) = match dtype {
            DType::F32 => {
                let mut v = reserve(count);
                let pointer = Pointer::F32(v.as_mut_ptr());
                (Values::F32(v.into()), pointer)
            }
            DType::F16 => {
                let mut v = reserve(count);
                let pointer = Pointer::F16(v.as_mut_ptr());
                (Values::F16(v.into()), pointer)
            }
            DType::I64 | DType::I32 | DType::U32 | DType::U8 => unreachable!("sequence tensors are f32 or f16"),
        };
        Self { values, pointer, batch, heads, len, dim, layout, written: AtomicUsize::new(0) }
    }

    /// Writes the rows of these tokens, each multiplied by its factor.
    ///
    /// # Safety
    /// Every row must be stored exactly once.
    pub(crate) unsafe fn store(
        &self,
        batch: usize,
        head: usize,
        tokens: Range<usize>,
        rows: &mut [f32],
        factors: &[f32],
    ) {
        // SAFETY: the caller keeps the contract of this function, which is that of `store_columns`.
        unsafe { self.store_columns(batch, head, tokens, 0..self.dim, rows, factors) };
    }

    /// Writes some columns of the rows of these tokens, each multiplied by its factor.
    ///
    /// # Safety
    /// Every element must be stored exactly once.
    pub(crate) unsafe fn store_columns(
        &self,
        batch: usize,
        head: usize,
        tokens: Range<usize>,
        columns: Range<usize>,
        rows: &mut [f32],
        factors: &[f32],
    ) {
        assert!(batch < self.batch && head < self.heads && tokens.end <= self.len && columns.end <= self.dim);
        let strides = self.layout.strides(self.heads, self.len, self.dim);
        let start = batch * strides.batch + head * strides.head + columns.start;
        let width = columns.len();
        let rows = rows[..tokens.len() * width].chunks_exact_mut(width);
        for ((token, row), &factor) in tokens.clone().zip(rows).zip(&factors[..tokens.len()]) {
            scale(row, factor);
            let at = start + token * strides.token;
            // SAFETY: the assert keeps `at..at + width` inside the allocation, and by this function's contract no other
            // thread writes it.
            unsafe {
                match self.pointer {
                    Pointer::F32(p) => p.add(at).copy_from_nonoverlapping(row.as_ptr(), width),
                    Pointer::F16(p) => {
                        // Uninitialised memory must not become a slice, so it is cleared first.
                        p.add(at).write_bytes(0, width);
                        std::slice::from_raw_parts_mut(p.add(at), width).convert_from_f32_slice(row);
                    }
                }
            }
        }
        self.written.fetch_add(tokens.len() * width, Ordering::Relaxed);
    }

    /// Returns the tensor. Panics if some rows have not been stored.
    pub(crate) fn finish(self) -> HostTensor {
        let Self { mut values, batch, heads, len, dim, layout, written, .. } = self;
        let rows = batch * heads * len;
        assert_eq!(written.into_inner(), rows * dim, "elements of an output that were not stored");
        // SAFETY: the memory was reserved for this number of elements, and the same number was stored, each once.
        unsafe {
            match &mut values {
                Values::F32(v) => v.to_mut().set_len(rows * dim),
                Values::F16(v) => v.to_mut().set_len(rows * dim),
                Values::I64(_) | Values::I32(_) | Values::U32(_) | Values::U8(_) => {}
            }
        }
        HostTensor::new(layout.shape(batch, heads, len, dim), values)
    }
}
