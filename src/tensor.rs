//! Shapes, dtypes, tensors on the host and tensors in a `wgpu::Buffer`.

use std::fmt;
use std::ops::Range;

use half::f16;

use crate::error::Error;

/// Storage type of a tensor. Arithmetic and state are always f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision; on a GPU it needs `wgpu::Features::SHADER_F16`.
    F16,
    /// 64-bit signed integer: counts in files (`position`).
    I64,
    /// 32-bit unsigned integer: indices of slots and rows. Files have them too, but reading gives I64.
    U32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 => 2,
            DType::I64 => 8,
            DType::U32 => 4,
        }
    }

    /// Whether sequences and weights may be stored so: f32 and f16.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16)
    }

    /// Lower-case name: `f32`, `f16`, `i64`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::I64 => "i64",
            DType::U32 => "u32",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Axis lengths, outermost first. Contiguous, row-major.
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

    /// Number of elements; `None` where it passes u64.
    pub fn checked_count(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |acc, &d| acc.checked_mul(d as u64))
    }

    /// Number of elements, saturating.
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

/// Order of the axes of a sequence tensor (q, k, v, o and what goes with them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// `[batch, heads, length, dim]`, as torch's scaled_dot_product_attention has it.
    #[default]
    Bhnd,
    /// `[batch, length, heads, dim]`, as flash-attention and fla have it.
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

    /// Distances in elements between batches, heads and tokens of such a tensor.
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

/// Distances in elements between neighbours along each axis of a sequence tensor; along the last axis it is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// From one batch to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one token to the next.
    pub token: usize,
}

/// Values of a tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision.
    F16(Vec<f16>),
    /// Integers (`position`).
    I64(Vec<i64>),
    /// Indices.
    U32(Vec<u32>),
}

/// A tensor in host memory: what files hold and what the `cpu` backend and the references work on.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    shape: Shape,
    values: Values,
}

impl HostTensor {
    /// A tensor of f32 values. Panics if the number of values is not that of the shape.
    pub fn f32(shape: impl Into<Shape>, values: Vec<f32>) -> Self {
        Self::new(shape, Values::F32(values))
    }

    /// A tensor of these values. Panics if the number of values is not that of the shape.
    pub fn new(shape: impl Into<Shape>, values: Values) -> Self {
        let shape = shape.into();
        let len = match &values {
            Values::F32(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::I64(v) => v.len(),
            Values::U32(v) => v.len(),
        };
        assert_eq!(shape.count(), len, "a tensor of shape {shape} cannot hold {len} values");
        Self { shape, values }
    }

    /// Zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        let n = shape.count();
        let values = match dtype {
            DType::F32 => Values::F32(vec![0.0; n]),
            DType::F16 => Values::F16(vec![f16::ZERO; n]),
            DType::I64 => Values::I64(vec![0; n]),
            DType::U32 => Values::U32(vec![0; n]),
        };
        Self { shape, values }
    }

    /// Axis lengths.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Storage type.
    pub fn dtype(&self) -> DType {
        match self.values {
            Values::F32(_) => DType::F32,
            Values::F16(_) => DType::F16,
            Values::I64(_) => DType::I64,
            Values::U32(_) => DType::U32,
        }
    }

    /// The values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// The values as f32, converted where they are stored as something else.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.values {
            Values::F32(v) => v.clone(),
            Values::F16(v) => {
                use half::slice::HalfFloatSliceExt;
                let mut out = vec![0.0; v.len()];
                v.convert_to_f32_slice(&mut out);
                out
            }
            Values::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Values::U32(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }

    /// The values as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.values {
            Values::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Values::F16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Values::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Values::U32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        }
    }

    /// The same tensor stored as `dtype`; f32 to f16 rounds to nearest even.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.dtype() {
            return self.clone();
        }
        let values = match dtype {
            DType::F32 => Values::F32(self.to_f32()),
            DType::F16 => {
                use half::slice::HalfFloatSliceExt;
                let wide = self.to_f32();
                let mut out = vec![f16::ZERO; wide.len()];
                out.convert_from_f32_slice(&wide);
                Values::F16(out)
            }
            DType::I64 => Values::I64(self.to_f64().iter().map(|&x| x as i64).collect()),
            DType::U32 => Values::U32(self.to_f64().iter().map(|&x| x as u32).collect()),
        };
        Self { shape: self.shape.clone(), values }
    }

    /// The same values under another shape. Panics if the counts differ.
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        Self::new(shape, self.values)
    }

    /// The values as little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.values {
            Values::F32(v) => bytemuck::cast_slice(v),
            Values::F16(v) => bytemuck::cast_slice(v),
            Values::I64(v) => bytemuck::cast_slice(v),
            Values::U32(v) => bytemuck::cast_slice(v),
        }
    }

    /// Number of values that are not finite.
    pub fn non_finite(&self) -> usize {
        match &self.values {
            Values::F32(v) => v.iter().filter(|x| !x.is_finite()).count(),
            Values::F16(v) => v.iter().filter(|x| !x.is_finite()).count(),
            Values::I64(_) | Values::U32(_) => 0,
        }
    }
}

/// Tensors by name, in the order they were put in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TensorMap(Vec<(String, HostTensor)>);

impl TensorMap {
    /// No tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a tensor in; one of that name is replaced.
    pub fn insert(&mut self, name: impl Into<String>, tensor: HostTensor) {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = tensor,
            None => self.0.push((name, tensor)),
        }
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// Takes the tensor of that name out.
    pub fn remove(&mut self, name: &str) -> Option<HostTensor> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.0.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// Names, comma separated; "none" if there are none.
    pub fn names(&self) -> String {
        if self.0.is_empty() {
            return "none".into();
        }
        self.0.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(String, HostTensor)> for TensorMap {
    fn from_iter<I: IntoIterator<Item = (String, HostTensor)>>(iter: I) -> Self {
        let mut map = Self::new();
        for (name, tensor) in iter {
            map.insert(name, tensor);
        }
        map
    }
}

impl IntoIterator for TensorMap {
    type Item = (String, HostTensor);
    type IntoIter = std::vec::IntoIter<(String, HostTensor)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// How an operator uses a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read.
    Read,
    /// Written whole; what it held before does not matter.
    Write,
    /// Read, then updated in place (state).
    Update,
}

/// One tensor of an operator at a shape, exactly as the buffer must be.
///
/// A slot with one part is a plain tensor. A slot with several is a pack (see [`crate::gpu::pack`]): small tensors
/// that share one binding, since a kernel has eight.
#[derive(Debug, Clone, PartialEq)]
pub struct Slot {
    /// Name of the binding: `q`, `o`, `state`.
    pub name: &'static str,
    /// How it is used.
    pub access: Access,
    /// Storage type of what is bound.
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
    /// Storage type in files: that of the slot, or I64 for a count, which then lies in the slot as the bits of two
    /// elements, low word first.
    pub dtype: DType,
    /// What it starts from where it is not given.
    pub initial: f32,
    /// How often it lies in the slot, one behind the other: of a count that every workgroup reads and advances, each
    /// has a copy of its own.
    pub copies: usize,
}

impl Part {
    /// A part of the slot's own dtype that starts from zero.
    pub fn new(name: &'static str, shape: impl Into<Shape>, dtype: DType) -> Self {
        Self { name, shape: shape.into(), offset: 0, dtype, initial: 0.0, copies: 1 }
    }

    /// Elements that it takes of a slot of this dtype, copies and all; `None` where they pass u64.
    pub fn elements(&self, slot: DType) -> Option<u64> {
        let each = if self.dtype == slot { 1 } else { self.dtype.size().div_ceil(slot.size()) };
        self.shape.checked_count()?.checked_mul((each * self.copies) as u64)
    }
}

impl Slot {
    /// A plain tensor.
    pub fn plain(name: &'static str, access: Access, dtype: DType, shape: impl Into<Shape>) -> Self {
        Self { name, access, dtype, parts: vec![Part::new(name, shape, dtype)] }
    }

    /// Shape of the tensor to bind: that of the only part, or the length of the pack.
    pub fn shape(&self) -> Shape {
        match self.parts.as_slice() {
            [only] => only.shape.clone(),
            _ => [self.checked_count().and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)].into(),
        }
    }

    /// Elements of the whole slot; `None` where it passes u64.
    pub fn checked_count(&self) -> Option<u64> {
        let mut end = 0u64;
        for part in &self.parts {
            end = end.max((part.offset as u64).checked_add(part.elements(self.dtype)?)?);
        }
        Some(end)
    }

    /// Bytes of the whole slot; `None` where it passes u64.
    pub fn checked_bytes(&self) -> Option<u64> {
        self.checked_count()?.checked_mul(self.dtype.size() as u64)
    }
}

/// A view of a `wgpu::Buffer`: where it starts, its shape and its dtype. Cheap to clone; the buffer is shared.
#[derive(Debug, Clone)]
pub struct Tensor {
    buffer: wgpu::Buffer,
    offset: u64,
    shape: Shape,
    dtype: DType,
}

impl Tensor {
    /// A view of `bytes` of a buffer that the caller owns.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the range is not what the shape needs, passes the buffer, does not start on a multiple of
    /// 256 (the portable binding alignment), or the buffer lacks `STORAGE` usage.
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
        // An odd number of f16 ends inside a 4-byte word: the binding is rounded up, so the buffer must be too.
        if found != needed && found != needed.next_multiple_of(4) {
            return refuse(format!("{needed} bytes for {dtype} {shape}"), format!("{found} bytes"));
        }
        if bytes.start.saturating_add(needed.next_multiple_of(4)) > buffer.size() {
            let end = bytes.start.saturating_add(needed.next_multiple_of(4));
            return refuse(format!("a buffer of at least {end} bytes"), format!("{} bytes", buffer.size()));
        }
        if !bytes.start.is_multiple_of(256) {
            return refuse("an offset that is a multiple of 256".into(), bytes.start.to_string());
        }
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return refuse("a buffer with STORAGE usage".into(), format!("{:?}", buffer.usage()));
        }
        Ok(Self { buffer: buffer.clone(), offset: bytes.start, shape, dtype })
    }

    /// The buffer behind it.
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

    /// Bytes of the values.
    pub fn bytes(&self) -> u64 {
        self.shape.count() as u64 * self.dtype.size() as u64
    }

    /// Bytes bound: rounded up to a 4-byte word, as bindings must be.
    pub fn binding_bytes(&self) -> u64 {
        self.bytes().next_multiple_of(4)
    }
}
