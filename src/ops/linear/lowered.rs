//! Rewrites a configuration whose log decays, strengths or lengths of q and k are computed from other tensors into one that is
//! given them: kernels read these alone.

use super::cpu::{log_decays, strengths};
use super::{Config, Decays, LENGTH_EPS};
use crate::cpu::simd;
use crate::tensor::{Access, DType, HostTensor, TensorMap};

/// The configuration and the tensors in the form that kernels read, in f32; `None` if they are in it already.
pub(super) fn lowered(c: &Config, tensors: &TensorMap) -> Option<(Config, TensorMap)> {
    if c.decays == Decays::PerToken && !(c.beta_for_all_heads || c.beta_sigmoid || c.l2norm) {
        return None;
    }
    let plain = Config {
        qkv: c.qkv.dtype(DType::F32),
        decays: Decays::PerToken,
        beta_for_all_heads: false,
        beta_sigmoid: false,
        l2norm: false,
        ..c.clone()
    };
    let mut inputs = TensorMap::new();
    for part in plain.slots().iter().filter(|slot| slot.access != Access::Write).flat_map(|slot| &slot.parts) {
        let given = || Some(tensors.get(part.name)?.cast(part.dtype));
        let tensor = match part.name {
            "g" => log_decays(c, tensors).map(|g| g.cast(DType::F32)),
            "beta" => Some(strengths(c, tensors).cast(DType::F32)),
            "q" | "k" if c.l2norm => given().map(|tensor| unit_rows(&tensor, c.qkv.dim_k)),
            _ => given(),
        };
        tensor.into_iter().for_each(|tensor| inputs.insert(part.name, tensor));
    }
    Some((plain, inputs))
}

/// Divides rows of length `d` by their lengths.
fn unit_rows(tensor: &HostTensor, d: usize) -> HostTensor {
    let mut values = tensor.to_f32();
    for row in values.chunks_exact_mut(d) {
        let length = (simd::dot(row, row) + LENGTH_EPS).sqrt();
        simd::scale(row, 1.0 / length);
    }
    HostTensor::f32(tensor.shape().clone(), values)
}
