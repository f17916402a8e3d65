//! Builds the GPU program of a configuration: the tiled attention core (`src/cores/attention`), applied directly to q,
//! k and v, with the Yat kernel as its score. Pure: no wgpu type.

use super::{Config, Kernel as YatKernel, NAME, Norm};
use crate::cores::attention::{self, Attention, CORE, KEYS_ALL, LOADS, MERGE, SPLIT, SQUARES, TYPES};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::Program;
use crate::gpu::shader::{Fragment, Kernel, fragment};
use crate::operator::qkv::STRIDES_SOURCE;

const TENSORS: Fragment = fragment!("yat/types.wgsl");
const SCORE: Fragment = fragment!("yat/score.wgsl");

/// Why every index is within bounds.
const PROOF: &str = "as those of the core (see attend); a pair whose distance is taken anew has no zero vector in it, so it \
                     is of a row and a key of the tensors";

const TILED: Kernel = attention::tiled_kernel(
    "yat_attention",
    &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCORE, SQUARES, KEYS_ALL, CORE, fragment!("yat/attention.wgsl")],
    PROOF,
);
const SPLIT_K: Kernel = attention::split_kernel(
    "yat_split_k",
    &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCORE, KEYS_ALL, SPLIT, fragment!("yat/split_k.wgsl")],
);
const SPLIT_K_MERGE: Kernel =
    attention::merge_kernel("yat_split_k_merge", &[STRIDES_SOURCE, TYPES, MERGE, fragment!("yat/split_k_merge.wgsl")]);

static KERNELS: [Kernel; 3] = [TILED, SPLIT_K, SPLIT_K_MERGE];

/// The same kernels for a configuration that reads `lengths`.
static LENGTHS_KERNELS: [Kernel; 3] = [
    attention::with_lengths(Kernel {
        sources: &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCORE, SQUARES, CORE, fragment!("yat/attention.wgsl")],
        ..TILED
    }),
    attention::with_lengths(Kernel {
        sources: &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCORE, SPLIT, fragment!("yat/split_k.wgsl")],
        ..SPLIT_K
    }),
    SPLIT_K_MERGE,
];

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let attention = Attention {
        op: NAME,
        qkv: &c.qkv,
        mask: c.mask(),
        score: c.epsilon,
        exponential: c.norm == Norm::Softmax,
        norm_eps: if c.norm == Norm::Kernel { c.norm_eps } else { 0.0 },
        lengths: c.lengths,
        kernels: if c.lengths { LENGTHS_KERNELS.each_ref() } else { KERNELS.each_ref() },
        overrides: vec![("EUCLIDEAN", (c.kernel == YatKernel::Euclidean).into())],
    };
    attention.program(caps)
}
