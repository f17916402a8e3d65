//! Decodes raw little- or big-endian elements to [`Values`]. They are read once, directly into the vector that keeps
//! them.

use std::io::{ErrorKind, Read};

use bytemuck::Pod;
use half::{bf16, f16};

use super::{Told, unread};
use crate::tensor::{DType, Values};

/// Element types that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elem {
    F32,
    F16,
    Bf16,
    F64,
    I64,
    I32,
    U32,
    /// One byte, 0 or not 0; the element type of masks. Files call it u8 or bool.
    U8,
}

impl Elem {
    /// The type that the elements have once they are read.
    pub(super) const fn dtype(self) -> DType {
        match self {
            Elem::F32 | Elem::Bf16 | Elem::F64 => DType::F32,
            Elem::F16 => DType::F16,
            Elem::I64 | Elem::I32 | Elem::U32 => DType::I64,
            Elem::U8 => DType::U8,
        }
    }
}

/// The refusal of a type, as a file spells it, that is none of those.
pub(super) fn unreadable(dtype: &str) -> String {
    let hint = match dtype.trim_start_matches(['<', '>', '|', '=']) {
        "V2" => " (bfloat16 is saved by numpy as these raw bytes: save it as f4, or as safetensors)",
        _ => "",
    };
    format!("expected dtype f32, f16, bf16, f64, i64, i32, u32, u8 or bool, found {dtype}{hint}")
}

/// Elements in a file: how many, of what type, in which byte order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Data {
    pub elem: Elem,
    pub big_endian: bool,
    pub count: usize,
    /// Whether the file is known to be long enough, so that all memory can be allocated at once. Otherwise (a pipe or a
    /// compressed entry) the count is only a claim, and memory grows with the data that arrives.
    pub present: bool,
}

/// Bytes read at a time. The block stays in the cache between clearing and filling it.
const STEP: usize = 1 << 20;

impl Data {
    /// Reads all elements.
    pub(super) fn read(self, r: &mut dyn Read) -> Told<Values> {
        Ok(match self.elem {
            Elem::F32 => Values::F32(self.same(r)?.into()),
            Elem::F16 => Values::F16(self.same(r)?.into()),
            Elem::I64 => Values::I64(self.same(r)?),
            Elem::Bf16 => Values::F32(self.converted(r, bf16::to_f32)?.into()),
            Elem::F64 => Values::F32(self.converted(r, |x: f64| x as f32)?.into()),
            Elem::I32 => Values::I64(self.converted(r, |x: i32| i64::from(x))?),
            Elem::U32 => Values::I64(self.converted(r, |x: u32| i64::from(x))?),
            Elem::U8 => Values::U8(self.same(r)?),
        })
    }

    fn room<T>(&self) -> Told<Vec<T>> {
        let mut out = Vec::new();
        if self.present {
            out.try_reserve_exact(self.count).map_err(|_| self.too_large::<T>())?;
        }
        Ok(out)
    }

    fn too_large<T>(&self) -> String {
        let bytes = (self.count as u128) * size_of::<T>() as u128;
        format!("expected a tensor that fits in memory, found one of {bytes} bytes")
    }

    /// Reads elements without conversion.
    fn same<T: Pod>(self, r: &mut dyn Read) -> Told<Vec<T>> {
        let mut out: Vec<T> = self.room()?;
        while out.len() < self.count {
            let at = out.len();
            let n = (STEP / size_of::<T>()).min(self.count - at);
            out.try_reserve(n).map_err(|_| self.too_large::<T>())?;
            out.resize(at + n, T::zeroed());
            self.fill(r, &mut out[at..], at)?;
        }
        Ok(out)
    }

    /// Reads elements and converts each.
    fn converted<S: Pod, T>(self, r: &mut dyn Read, f: impl Fn(S) -> T) -> Told<Vec<T>> {
        let mut out: Vec<T> = self.room()?;
        let mut part = vec![S::zeroed(); (STEP / size_of::<S>()).min(self.count)];
        while out.len() < self.count {
            let n = part.len().min(self.count - out.len());
            out.try_reserve(n).map_err(|_| self.too_large::<T>())?;
            self.fill(r, &mut part[..n], out.len())?;
            out.extend(part[..n].iter().map(|&x| f(x)));
        }
        Ok(out)
    }

    /// Fills `part` with the elements from number `done` on.
    fn fill<T: Pod>(self, r: &mut dyn Read, part: &mut [T], done: usize) -> Told<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(part);
        let mut got = 0;
        while got < bytes.len() {
            match r.read(&mut bytes[got..]) {
                Ok(0) => {
                    let size = size_of::<T>() as u128;
                    let (expected, found) = (self.count as u128 * size, done as u128 * size + got as u128);
                    return Err(format!("truncated: expected {expected} bytes of data, found {found}"));
                }
                Ok(n) => got += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(unread(e)),
            }
        }
        if self.big_endian != cfg!(target_endian = "big") {
            bytes.chunks_exact_mut(size_of::<T>()).for_each(<[u8]>::reverse);
        }
        Ok(())
    }
}

/// Converts values from column-major (Fortran) to row-major order.
pub(super) fn row_major(values: Values, shape: &[usize]) -> Told<Values> {
    // If at most one axis is longer than 1, both orders are the same.
    if shape.iter().filter(|&&d| d != 1).count() < 2 {
        return Ok(values);
    }
    Ok(match values {
        Values::F32(v) => Values::F32(transposed(&v, shape)?.into()),
        Values::F16(v) => Values::F16(transposed::<f16>(&v, shape)?.into()),
        Values::I64(v) => Values::I64(transposed(&v, shape)?),
        Values::I32(v) => Values::I32(transposed(&v, shape)?),
        Values::U32(v) => Values::U32(transposed(&v, shape)?),
        Values::U8(v) => Values::U8(transposed(&v, shape)?),
    })
}

fn transposed<T: Copy>(source: &[T], shape: &[usize]) -> Told<Vec<T>> {
    let mut out = Vec::new();
    if source.is_empty() {
        return Ok(out);
    }
    out.try_reserve_exact(source.len()).map_err(|_| "expected a tensor that fits in memory twice".to_owned())?;
    let mut step = 1;
    let mut axes: Vec<(usize, usize)> = Vec::new();
    for &d in shape {
        axes.push((d, step));
        step *= d;
    }
    let Some((len, stride)) = axes.pop() else {
        return Ok(source.to_vec());
    };
    // Counts through all axes except the last; `base` is the matching position in the source.
    let mut at = vec![0; axes.len()];
    let mut base = 0;
    loop {
        out.extend((0..len).map(|i| source[base + i * stride]));
        let mut axis = axes.len();
        loop {
            if axis == 0 {
                return Ok(out);
            }
            axis -= 1;
            let (len, stride) = axes[axis];
            at[axis] += 1;
            base += stride;
            if at[axis] < len {
                break;
            }
            base -= stride * len;
            at[axis] = 0;
        }
    }
}
