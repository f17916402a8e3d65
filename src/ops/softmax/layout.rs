//! Builds the GPU program of a configuration: the tiled attention core (`src/cores/attention`), applied directly to q,
//! k and v. Pure: no wgpu type.

use super::{Config, NAME};
use crate::cores::attention::{self, Attention, CORE, KEYS_ALL, LOADS, MERGE, NO_SQUARES, PROOF, SCALED, SPLIT, TYPES};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::Program;
use crate::gpu::shader::{Fragment, Kernel, fragment};
use crate::operator::qkv::STRIDES_SOURCE;

const TENSORS: Fragment = fragment!("softmax/types.wgsl");

const TILED: Kernel = attention::tiled_kernel(
    "softmax_attention",
    &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCALED, NO_SQUARES, KEYS_ALL, CORE, fragment!("softmax/attention.wgsl")],
    PROOF,
);
const SPLIT_K: Kernel = attention::split_kernel(
    "softmax_split_k",
    &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCALED, KEYS_ALL, SPLIT, fragment!("softmax/split_k.wgsl")],
);
const SPLIT_K_MERGE: Kernel = attention::merge_kernel(
    "softmax_split_k_merge",
    &[STRIDES_SOURCE, TYPES, MERGE, fragment!("softmax/split_k_merge.wgsl")],
);

static KERNELS: [Kernel; 3] = [TILED, SPLIT_K, SPLIT_K_MERGE];

/// The same kernels for a configuration that reads `lengths`.
static LENGTHS_KERNELS: [Kernel; 3] = [
    attention::with_lengths(Kernel {
        sources: &[
            STRIDES_SOURCE,
            TYPES,
            TENSORS,
            LOADS,
            SCALED,
            NO_SQUARES,
            CORE,
            fragment!("softmax/attention.wgsl"),
        ],
        ..TILED
    }),
    attention::with_lengths(Kernel {
        sources: &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCALED, SPLIT, fragment!("softmax/split_k.wgsl")],
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
        score: c.effective_scale(),
        exponential: true,
        norm_eps: 0.0,
        lengths: c.lengths,
        kernels: if c.lengths { LENGTHS_KERNELS.each_ref() } else { KERNELS.each_ref() },
        overrides: vec![],
    };
    attention.program(caps)
}
