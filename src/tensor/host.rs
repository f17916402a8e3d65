//! Tensors in host memory, and maps of tensors by name.

use half::f16;

use super::{DType, Shape, axes};

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
    I32(Vec<i32>),
    /// Borders and lengths.
    U32(Vec<u32>),
    /// Masks: 0 is false.
    U8(Vec<u8>),
}

/// Applies a generic function to the values, whatever their type.
macro_rules! map {
    ($values:expr, $inner:ident => $body:expr) => {
        match $values {
            Values::F32($inner) => Values::F32($body),
            Values::F16($inner) => Values::F16($body),
            Values::I64($inner) => Values::I64($body),
            Values::I32($inner) => Values::I32($body),
            Values::U32($inner) => Values::U32($body),
            Values::U8($inner) => Values::U8($body),
        }
    };
}

/// A tensor in host memory. Files are read into it, and the `cpu` backend and the references compute with it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    shape: Shape,
    values: Values,
}

impl HostTensor {
    /// Creates a tensor of f32 values. Panics if the number of values differs from that of the shape.
    pub fn f32(shape: impl Into<Shape>, values: Vec<f32>) -> Self {
        Self::new(shape, Values::F32(values))
    }

    /// Creates a tensor of these values. Panics if the number of values differs from that of the shape.
    pub fn new(shape: impl Into<Shape>, values: Values) -> Self {
        let shape = shape.into();
        let len = match &values {
            Values::F32(v) => v.len(),
            Values::F16(v) => v.len(),
            Values::I64(v) => v.len(),
            Values::I32(v) => v.len(),
            Values::U32(v) => v.len(),
            Values::U8(v) => v.len(),
        };
        assert_eq!(shape.count(), len, "a tensor of shape {shape} cannot hold {len} values");
        Self { shape, values }
    }

    /// Creates a tensor of zeros.
    pub fn zeros(shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        let n = shape.count();
        let values = match dtype {
            DType::F32 => Values::F32(vec![0.0; n]),
            DType::F16 => Values::F16(vec![f16::ZERO; n]),
            DType::I64 => Values::I64(vec![0; n]),
            DType::I32 => Values::I32(vec![0; n]),
            DType::U32 => Values::U32(vec![0; n]),
            DType::U8 => Values::U8(vec![0; n]),
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
            Values::I32(_) => DType::I32,
            Values::U32(_) => DType::U32,
            Values::U8(_) => DType::U8,
        }
    }

    /// The values.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Takes the values out.
    pub fn into_values(self) -> Values {
        self.values
    }

    /// The values as f32, converted if they have another storage type.
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
            Values::I32(v) => v.iter().map(|&x| x as f32).collect(),
            Values::U32(v) => v.iter().map(|&x| x as f32).collect(),
            Values::U8(v) => v.iter().map(|&x| f32::from(x)).collect(),
        }
    }

    /// The values as f64.
    pub fn to_f64(&self) -> Vec<f64> {
        match &self.values {
            Values::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Values::F16(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Values::I64(v) => v.iter().map(|&x| x as f64).collect(),
            Values::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Values::U32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Values::U8(v) => v.iter().map(|&x| f64::from(x)).collect(),
        }
    }

    /// Converts to the storage type `dtype`. f32 to f16 rounds to nearest even. Every number but 0 is 1 as u8.
    #[must_use]
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
            DType::I32 => Values::I32(self.to_f64().iter().map(|&x| x as i32).collect()),
            DType::U32 => Values::U32(self.to_f64().iter().map(|&x| x as u32).collect()),
            DType::U8 => Values::U8(self.to_f32().iter().map(|&x| u8::from(x != 0.0)).collect()),
        };
        Self { shape: self.shape.clone(), values }
    }

    /// The mask as a GPU stores it, u32: element i of a row is bit `i % 32` of word `i / 32`, 1 where the element is not 0. The
    /// last axis then has as many words as its elements need.
    #[must_use]
    pub fn to_bits(&self) -> Self {
        let mut dims = self.shape.dims().to_vec();
        let row = dims.pop().unwrap_or(1);
        let word = |elements: &[u8]| elements.iter().rev().fold(0u32, |word, x| word << 1 | u32::from(*x != 0));
        let Values::U8(values) = &self.cast(DType::U8).values else { unreachable!("it was just cast") };
        let words: Vec<u32> = values.chunks(row.max(1)).flat_map(|row| row.chunks(32).map(word)).collect();
        dims.push(row.div_ceil(32));
        Self::new(dims, Values::U32(words))
    }

    /// The same values with another shape. Panics if the counts differ.
    #[must_use]
    pub fn reshape(self, shape: impl Into<Shape>) -> Self {
        Self::new(shape, self.values)
    }

    /// Keeps only these positions of an axis, in their order.
    pub(crate) fn select(&self, axis: usize, positions: &[usize]) -> Self {
        let mut dims = self.shape.dims().to_vec();
        let sizes = [dims[axis], dims[axis + 1..].iter().product()];
        dims[axis] = positions.len();
        Self { shape: dims.into(), values: map!(&self.values, v => axes::select(v, sizes, positions)) }
    }

    /// Puts tensors of one storage type one after another along an axis. Panics if there are none.
    pub(crate) fn join(pieces: &[Self], axis: usize) -> Self {
        let mut dims = pieces[0].shape.dims().to_vec();
        let inner = dims[axis + 1..].iter().product();
        dims[axis] = pieces.iter().map(|piece| piece.shape.dims()[axis]).sum();
        macro_rules! joined {
            ($kind:ident) => {{
                let values = pieces.iter().filter_map(|piece| match &piece.values {
                    Values::$kind(values) => Some((piece.shape.dims()[axis], &values[..])),
                    _ => None,
                });
                Values::$kind(axes::join(&values.collect::<Vec<_>>(), inner))
            }};
        }
        let values = match pieces[0].dtype() {
            DType::F32 => joined!(F32),
            DType::F16 => joined!(F16),
            DType::I64 => joined!(I64),
            DType::I32 => joined!(I32),
            DType::U32 => joined!(U32),
            DType::U8 => joined!(U8),
        };
        Self::new(dims, values)
    }

    /// Exchanges the last two axes.
    pub(crate) fn exchanged(&self) -> Self {
        let mut dims = self.shape.dims().to_vec();
        let [.., rows, columns] = dims[..] else { return self.clone() };
        let last = dims.len() - 1;
        dims.swap(last - 1, last);
        Self { shape: dims.into(), values: map!(&self.values, v => axes::exchange(v, [rows, columns])) }
    }

    /// The values as little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.values {
            Values::F32(v) => bytemuck::cast_slice(v),
            Values::F16(v) => bytemuck::cast_slice(v),
            Values::I64(v) => bytemuck::cast_slice(v),
            Values::I32(v) => bytemuck::cast_slice(v),
            Values::U32(v) => bytemuck::cast_slice(v),
            Values::U8(v) => v,
        }
    }

    /// Number of values that are not finite.
    pub fn non_finite(&self) -> usize {
        match &self.values {
            Values::F32(v) => v.iter().filter(|x| !x.is_finite()).count(),
            Values::F16(v) => v.iter().filter(|x| !x.is_finite()).count(),
            Values::I64(_) | Values::I32(_) | Values::U32(_) | Values::U8(_) => 0,
        }
    }
}

/// Tensors by name, in the order of insertion.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TensorMap(Vec<(String, HostTensor)>);

impl TensorMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Inserts a tensor. It replaces a tensor of the same name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: HostTensor) {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = tensor,
            None => self.0.push((name, tensor)),
        }
    }

    /// Returns the tensor of that name.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, t)| t)
    }

    /// Removes and returns the tensor of that name.
    pub fn remove(&mut self, name: &str) -> Option<HostTensor> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    /// Names and tensors, in the order of insertion.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HostTensor)> {
        self.0.iter().map(|(n, t)| (n.as_str(), t))
    }

    /// Names, separated by commas; "none" if the map is empty.
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

    /// Whether the map is empty.
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
