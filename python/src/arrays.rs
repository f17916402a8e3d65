//! NumPy arrays as tensors and back. Floats are read in place and written without a copy.

use std::sync::Arc;

use half::f16;
use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use subquad::tensor::{Data, Lender, Values};
use subquad::{DType, Error, HostTensor};

/// Elements of an array that the tensor keeps alive.
struct Borrowed<T> {
    _array: Py<PyAny>,
    start: *const T,
    count: usize,
}

// SAFETY: the array outlives this and its elements are only read. As everywhere in NumPy, another thread must not write them
// during a call.
unsafe impl<T> Send for Borrowed<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Borrowed<T> {}

impl<T> AsRef<[T]> for Borrowed<T> {
    fn as_ref(&self) -> &[T] {
        // SAFETY: `start` is aligned and has `count` elements for as long as the array lives.
        unsafe { std::slice::from_raw_parts(self.start, self.count) }
    }
}

/// Elements of an array that the tensor keeps alive and writes.
struct Lent {
    _array: Py<PyAny>,
    start: *mut f32,
    count: usize,
}

// SAFETY: the array outlives this, and nothing else reads or writes its elements during a call: see `lent`.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl Lender<f32> for Lent {
    fn values(&self) -> &[f32] {
        // SAFETY: `start` is aligned and has `count` elements for as long as the array lives.
        unsafe { std::slice::from_raw_parts(self.start, self.count) }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.count) }
    }
}

/// The tensor of a contiguous array of float32 that may be written, which is written in place. `None` if it is another array.
pub(crate) fn lent(given: &Bound<'_, PyAny>) -> Option<HostTensor> {
    let array = given.cast::<PyArrayDyn<f32>>().ok()?;
    let whole = array.is_c_contiguous() && array.try_readwrite().is_ok();
    let shape = array.shape().to_vec();
    let elements = || Lent { _array: array.clone().into_any().unbind(), start: array.data(), count: array.len() };
    whole.then(|| HostTensor::new(shape, Values::F32(Data::lent(Box::new(elements())))))
}

/// Says whether a tensor is written in an array of Python.
pub(crate) fn is_lent(tensor: &HostTensor) -> bool {
    matches!(tensor.values(), Values::F32(values) if values.is_lent())
}

/// Refuses a tensor that is written in place and shares memory with another one.
pub(crate) fn check_apart(op: &'static str, tensors: &[(String, HostTensor)]) -> Result<(), Error> {
    for (at, (name, tensor)) in tensors.iter().enumerate().filter(|(_, (_, tensor))| is_lent(tensor)) {
        let own = tensor.bytes().as_ptr_range();
        for (_, (other, beside)) in tensors.iter().enumerate().filter(|(beside, _)| *beside != at) {
            let range = beside.bytes().as_ptr_range();
            if own.start < range.end && range.start < own.end {
                return Err(Error::tensor(op, name.as_str(), "memory of its own", format!("that of `{other}`")));
            }
        }
    }
    Ok(())
}

/// The storage type of that name.
pub(crate) fn dtype(name: &str) -> PyResult<DType> {
    match name {
        "float32" => Ok(DType::F32),
        "float16" => Ok(DType::F16),
        _ => Err(PyValueError::new_err(format!("dtype: expected float32 or float16, found `{name}`"))),
    }
}

fn elements<T: Element + 'static>(array: &Bound<'_, PyArrayDyn<T>>) -> Data<T> {
    Data::shared(Arc::new(Borrowed {
        _array: array.clone().into_any().unbind(),
        start: array.data(),
        count: array.len(),
    }))
}

/// The tensor of a contiguous array. `name` is for the message.
pub(crate) fn tensor(name: &str, given: &Bound<'_, PyAny>) -> PyResult<HostTensor> {
    let wrong = |found: String| PyTypeError::new_err(format!("`{name}`: expected a NumPy array, found {found}"));
    let array = given.cast::<PyUntypedArray>().map_err(|_| wrong(given.get_type().to_string()))?;
    if !array.is_c_contiguous() {
        return Err(PyValueError::new_err(format!("`{name}`: expected an array without strides of its own")));
    }
    let shape = array.shape().to_vec();
    let values = if let Ok(array) = given.cast::<PyArrayDyn<f32>>() {
        Values::F32(elements(array))
    } else if let Ok(array) = given.cast::<PyArrayDyn<f16>>() {
        Values::F16(elements(array))
    } else if let Ok(array) = given.cast::<PyArrayDyn<i64>>() {
        Values::I64(elements(array).to_vec())
    } else if let Ok(array) = given.cast::<PyArrayDyn<i32>>() {
        Values::I32(elements(array).to_vec())
    } else if let Ok(array) = given.cast::<PyArrayDyn<u32>>() {
        Values::U32(elements(array).to_vec())
    } else if let Ok(array) = given.cast::<PyArrayDyn<u8>>() {
        Values::U8(elements(array).to_vec())
    } else if let Ok(array) = given.cast::<PyArrayDyn<bool>>() {
        Values::U8(elements(array).iter().map(|x| u8::from(*x)).collect())
    } else {
        let found = array.dtype();
        let text = format!("`{name}`: expected float32, float16, bool or whole numbers, found {found}");
        return Err(PyValueError::new_err(text));
    };
    Ok(HostTensor::new(shape, values))
}

/// The array of a tensor.
pub(crate) fn array<'py>(py: Python<'py>, tensor: HostTensor) -> PyResult<Bound<'py, PyAny>> {
    fn of<'py, T: Element>(py: Python<'py>, values: Vec<T>, dims: &[usize]) -> PyResult<Bound<'py, PyAny>> {
        Ok(PyArray1::from_vec(py, values).reshape(dims)?.into_any())
    }
    let dims = tensor.shape().dims().to_vec();
    match tensor.into_values() {
        Values::F32(mut values) => of(py, std::mem::take(values.to_mut()), &dims),
        Values::F16(mut values) => of(py, std::mem::take(values.to_mut()), &dims),
        Values::I64(values) => of(py, values, &dims),
        Values::I32(values) => of(py, values, &dims),
        Values::U32(values) => of(py, values, &dims),
        Values::U8(values) => of(py, values, &dims),
    }
}
