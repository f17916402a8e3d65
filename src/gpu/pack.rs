//! Packs several small tensors into one binding. Pure.
//!
//! A portable device has eight storage bindings per kernel, and the state of one operator may consist of four tensors
//! (state, norm, position, log scale). They share one buffer. Each part starts on a multiple of four elements, so that
//! a shader can read it as `vec4`.

use std::borrow::Cow;

use crate::tensor::{Access, DType, HostTensor, Part, Shape, Slot, TensorMap, Values};

/// Parts of a slot start on multiples of this many elements.
const ALIGN: usize = 4;

/// A slot that holds these tensors in order.
pub fn slot(name: &'static str, access: Access, dtype: DType, parts: &[(&'static str, Shape)]) -> Slot {
    let parts = parts.iter().map(|(name, shape)| Part::new(name, shape.clone(), dtype)).collect();
    placed(name, access, dtype, parts)
}

/// A slot that holds these parts in order. Their offsets are assigned here.
pub fn placed(name: &'static str, access: Access, dtype: DType, mut parts: Vec<Part>) -> Slot {
    let mut offset = 0usize;
    for part in &mut parts {
        part.offset = offset;
        // Saturates: a slot that is too large for any memory is refused by its size later.
        let elements = part.elements(dtype).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        offset = offset.saturating_add(elements).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
    }
    Slot { name, access, dtype, parts }
}

/// A slot that holds these tensors side by side: row i of the slot has what all of them have at index i of their first
/// axis. Only [`pack`] takes such a slot.
pub fn columns(name: &'static str, access: Access, dtype: DType, parts: Vec<Part>) -> Slot {
    // Saturates, as `Part::row` does: what is too large for any memory is refused by its size later.
    let width = |part: &Part| part.shape.dims().iter().skip(1).fold(1usize, |all, dim| all.saturating_mul(*dim));
    let widths: Vec<usize> = parts.iter().map(width).collect();
    let pitch = widths.iter().fold(0usize, |all, width| all.saturating_add(*width));
    let mut offset = 0usize;
    let place = |(part, width): (Part, usize)| {
        let part = Part { offset, pitch: Some(pitch), ..part };
        offset = offset.saturating_add(width);
        part
    };
    let parts = parts.into_iter().zip(widths).map(place).collect();
    Slot { name, access, dtype, parts }
}

/// Packs the parts found in `tensors` into one tensor of the slot's length. Parts that are missing get their initial
/// value. A slot of one part is not copied.
pub fn pack<'t>(slot: &Slot, tensors: &'t TensorMap) -> Cow<'t, HostTensor> {
    let given = |part: &Part| match tensors.get(part.name) {
        Some(tensor) if part.dtype == DType::U8 => Cow::Owned(tensor.to_bits()),
        Some(tensor) if tensor.dtype() == part.dtype => Cow::Borrowed(tensor),
        Some(tensor) => Cow::Owned(tensor.cast(part.dtype)),
        None if part.initial == 0.0 => Cow::Owned(HostTensor::zeros(part.shape.clone(), part.dtype)),
        None => {
            let values = vec![part.initial; part.shape.count()];
            Cow::Owned(HostTensor::f32(part.shape.clone(), values).cast(part.dtype))
        }
    };
    if let [only] = slot.parts.as_slice() {
        return given(only);
    }
    let total = slot.checked_count().unwrap_or(u64::MAX) as usize;
    let mut values = vec![0.0f32; total];
    for part in &slot.parts {
        let tensor = given(part);
        let own = match tensor.values() {
            Values::I64(counts) => counts.iter().flat_map(|&count| words(count)).collect(),
            _ => tensor.to_f32(),
        };
        if part.pitch.is_some() {
            let (starts, count) = part.pieces();
            starts
                .iter()
                .zip(own.chunks_exact(count))
                .for_each(|(at, row)| values[*at..][..count].copy_from_slice(row));
            continue;
        }
        for copy in 0..part.copies {
            values[part.offset + copy * own.len()..][..own.len()].copy_from_slice(&own);
        }
    }
    Cow::Owned(HostTensor::f32([total], values).cast(slot.dtype))
}

/// The parts of a packed tensor, by name. If a part is stored several times, the first copy is returned.
pub fn unpack(slot: &Slot, packed: HostTensor) -> TensorMap {
    if let [only] = slot.parts.as_slice() {
        return [(only.name.to_owned(), packed.reshape(only.shape.clone()))].into_iter().collect();
    }
    let cut = |part: &Part, range: std::ops::Range<usize>| match packed.values() {
        Values::F32(v) if part.dtype == DType::I64 => Values::I64(v[range].chunks_exact(2).map(count).collect()),
        Values::F32(v) => Values::F32(v[range].to_vec().into()),
        Values::F16(v) => Values::F16(v[range].to_vec().into()),
        Values::I64(v) => Values::I64(v[range].to_vec()),
        Values::I32(v) => Values::I32(v[range].to_vec()),
        Values::U32(v) => Values::U32(v[range].to_vec()),
        Values::U8(v) => Values::U8(v[range].to_vec()),
    };
    slot.parts
        .iter()
        .map(|part| {
            let all = part.elements(slot.dtype).unwrap_or(0) as usize;
            let values = cut(part, part.offset..part.offset + all / part.copies.max(1));
            (part.name.to_owned(), HostTensor::new(part.shape.clone(), values))
        })
        .collect()
}

/// A count as the bits of two elements, low word first.
fn words(count: i64) -> [f32; 2] {
    [f32::from_bits(count as u32), f32::from_bits((count >> 32) as u32)]
}

fn count(words: &[f32]) -> i64 {
    (u64::from(words[1].to_bits()) << 32 | u64::from(words[0].to_bits())) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primitives_are_aligned_and_come_back() {
        let slot = slot("state", Access::Update, DType::F32, &[("state", [1, 3].into()), ("norm", [2].into())]);
        assert_eq!(slot.parts[1].offset, 4);
        assert_eq!(slot.checked_bytes(), Some(24));
        let mut tensors = TensorMap::new();
        tensors.insert("state", HostTensor::f32([1, 3], vec![1.0, 2.0, 3.0]));
        tensors.insert("norm", HostTensor::f32([2], vec![4.0, 5.0]));
        let packed = pack(&slot, &tensors);
        assert_eq!(packed.to_f32(), [1.0, 2.0, 3.0, 0.0, 4.0, 5.0]);
        assert_eq!(unpack(&slot, packed.into_owned()), tensors);
    }

    #[test]
    fn a_part_not_given_is_zero() {
        let slot = slot("state", Access::Update, DType::F32, &[("state", [2].into()), ("norm", [1].into())]);
        let none = TensorMap::new();
        let packed = pack(&slot, &none);
        assert_eq!(packed.to_f32(), [0.0; 5]);
    }

    /// A 64-bit count among f32 values, stored once for each workgroup that advances it, and a part whose initial value
    /// is not zero.
    #[test]
    fn a_count_lies_as_bits_and_an_initial_value_stands_in_for_a_part_not_given() {
        let mass = Part { initial: 0.25, ..Part::new("mass", [3], DType::F32) };
        let position = Part { copies: 2, ..Part::new("position", [1], DType::I64) };
        let slot = placed("state", Access::Update, DType::F32, vec![mass, position]);
        assert_eq!((slot.parts[1].offset, slot.checked_count()), (4, Some(8)));
        let far = i64::MAX - 0x7fff_fffe;
        let given: TensorMap =
            [("position".to_owned(), HostTensor::new([1], Values::I64(vec![far])))].into_iter().collect();
        let packed = pack(&slot, &given);
        assert_eq!(&packed.to_f32()[..3], [0.25; 3]);
        let bits: Vec<u32> = packed.to_f32()[4..].iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [far as u32, (far >> 32) as u32, far as u32, (far >> 32) as u32]);
        let back = unpack(&slot, packed.into_owned());
        assert_eq!(back.get("position"), given.get("position"));
        assert_eq!(back.get("mass").map(HostTensor::to_f32), Some(vec![0.25; 3]));
    }
}
