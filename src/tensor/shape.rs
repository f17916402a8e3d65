//! Storage types, axis lengths and axis orders.

use std::fmt;

/// Storage type of a tensor. Arithmetic and state are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision; on a GPU it needs `wgpu::Features::SHADER_F16`.
    F16,
    /// 64-bit signed integer: counts in files (`position`).
    I64,
    /// 32-bit signed integer: indices of slots, rows and codes, 0 or more. Files may contain it, but it is read as I64. Kernels
    /// take it for unsigned, so that a negative index is beyond every table.
    I32,
    /// 32-bit unsigned integer: borders and lengths on a GPU. Files may contain it, but it is read as I64.
    U32,
    /// 8-bit unsigned integer on the host: a mask, where 0 is false. On a GPU a mask has one bit per element, in words of U32.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 => 2,
            DType::I64 => 8,
            DType::I32 => 4,
            DType::U32 => 4,
            DType::U8 => 1,
        }
    }

    /// Whether sequences and weights may have this storage type: f32 and f16.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16)
    }

    /// Lower-case name: `f32`, `f16`, `i64`, `i32`, `u32`, `u8`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::I64 => "i64",
            DType::I32 => "i32",
            DType::U32 => "u32",
            DType::U8 => "u8",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Axis lengths, outermost first. The data is contiguous and row-major.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Axis lengths.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Number of elements; `None` if it exceeds u64.
    pub fn checked_count(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |acc, &d| acc.checked_mul(d as u64))
    }

    /// Number of elements; `usize::MAX` if it exceeds usize.
    pub fn count(&self) -> usize {
        self.0.iter().fold(1usize, |acc, &d| acc.saturating_mul(d))
    }
}

impl<const K: usize> From<[usize; K]> for Shape {
    fn from(dims: [usize; K]) -> Self {
        Self(dims.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Self(dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self(dims.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            write!(f, "{}{d}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

/// Axis order of a sequence tensor (q, k, v, o and other tensors with the same axes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `[batch, heads, length, dim]`, the order of torch's scaled_dot_product_attention.
    #[default]
    Bhnd,
    /// `[batch, length, heads, dim]`, the order of flash-attention and fla.
    Bnhd,
}

impl Layout {
    /// `bhnd` or `bnhd`.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::Bhnd => "bhnd",
            Layout::Bnhd => "bnhd",
        }
    }

    /// Shape of a sequence tensor with these axis lengths.
    pub fn shape(self, batch: usize, heads: usize, len: usize, dim: usize) -> Shape {
        match self {
            Layout::Bhnd => [batch, heads, len, dim].into(),
            Layout::Bnhd => [batch, len, heads, dim].into(),
        }
    }

    /// The axis along the sequence.
    pub const fn token_axis(self) -> usize {
        match self {
            Layout::Bhnd => 2,
            Layout::Bnhd => 1,
        }
    }

    /// Number of elements between neighbouring batch entries, heads and tokens of a sequence tensor.
    pub fn strides(self, heads: usize, len: usize, dim: usize) -> Strides {
        match self {
            Layout::Bhnd => Strides { batch: heads * len * dim, head: len * dim, token: dim },
            Layout::Bnhd => Strides { batch: heads * len * dim, head: dim, token: heads * dim },
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Number of elements between neighbours along each axis of a sequence tensor. Along the last axis it is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// From one batch entry to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one token to the next.
    pub token: usize,
}
