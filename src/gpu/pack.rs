//! Several small tensors in one binding. Pure.
//!
//! A kernel has eight storage bindings on a portable device, and an operator's state alone may be four tensors
//! (state, norm, position, log scale). They share one buffer, each part starting on a multiple of four elements so that
//! a shader may read it as `vec4`.

use crate::tensor::{Access, DType, HostTensor, Part, Shape, Slot, TensorMap, Values};

/// Parts of a slot start on multiples of this many elements.
const ALIGN: usize = 4;

/// A slot of these tensors, one behind the other.
pub fn slot(name: &'static str, access: Access, dtype: DType, parts: &[(&'static str, Shape)]) -> Slot {
    let mut offset = 0usize;
    let parts = parts
        .iter()
        .map(|(name, shape)| {
            let part = Part { name, shape: shape.clone(), offset };
            // Saturates: a pack that no memory can hold is refused by its size later.
            offset = offset.saturating_add(shape.count()).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
            part
        })
        .collect();
    Slot { name, access, dtype, parts }
}

/// One tensor as long as the slot, filled from the parts found in `tensors`; parts not found are zero.
pub fn pack(slot: &Slot, tensors: &TensorMap) -> HostTensor {
    if let [only] = slot.parts.as_slice() {
        return match tensors.get(only.name) {
            Some(tensor) => tensor.cast(slot.dtype),
            None => HostTensor::zeros(only.shape.clone(), slot.dtype),
        };
    }
    let total = slot.checked_count().unwrap_or(u64::MAX) as usize;
    let mut values = vec![0.0f32; total];
    for part in &slot.parts {
        if let Some(tensor) = tensors.get(part.name) {
            values[part.offset..part.offset + part.shape.count()].copy_from_slice(&tensor.to_f32());
        }
    }
    HostTensor::f32([total], values).cast(slot.dtype)
}

/// The parts of a packed tensor, by name.
pub fn unpack(slot: &Slot, packed: HostTensor) -> TensorMap {
    if let [only] = slot.parts.as_slice() {
        return [(only.name.to_owned(), packed.reshape(only.shape.clone()))].into_iter().collect();
    }
    let cut = |range: std::ops::Range<usize>| match packed.values() {
        Values::F32(v) => Values::F32(v[range].to_vec()),
        Values::F16(v) => Values::F16(v[range].to_vec()),
        Values::I64(v) => Values::I64(v[range].to_vec()),
    };
    slot.parts
        .iter()
        .map(|part| {
            let values = cut(part.offset..part.offset + part.shape.count());
            (part.name.to_owned(), HostTensor::new(part.shape.clone(), values))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_aligned_and_come_back() {
        let slot = slot("state", Access::Update, DType::F32, &[("state", [1, 3].into()), ("norm", [2].into())]);
        assert_eq!(slot.parts[1].offset, 4);
        assert_eq!(slot.checked_bytes(), Some(24));
        let mut tensors = TensorMap::new();
        tensors.insert("state", HostTensor::f32([1, 3], vec![1.0, 2.0, 3.0]));
        tensors.insert("norm", HostTensor::f32([2], vec![4.0, 5.0]));
        let packed = pack(&slot, &tensors);
        assert_eq!(packed.to_f32(), [1.0, 2.0, 3.0, 0.0, 4.0, 5.0]);
        assert_eq!(unpack(&slot, packed), tensors);
    }

    #[test]
    fn a_part_not_given_is_zero() {
        let slot = slot("state", Access::Update, DType::F32, &[("state", [2].into()), ("norm", [1].into())]);
        let packed = pack(&slot, &TensorMap::new());
        assert_eq!(packed.to_f32(), [0.0; 5]);
    }
}
