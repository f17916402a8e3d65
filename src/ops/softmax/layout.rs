//! From a configuration to tiles, uniforms, workspace and dispatches: the tiled core over q, k and v as they are (see
//! `attend`). Pure: no wgpu type.

use super::{Config, NAME};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::Program;
use crate::gpu::source::{Kernel, Source, source};
use crate::ops::attend::{self, Attention, CORE, LOADS, MERGE, NO_SQUARES, PROOF, SCALED, SPLIT, TYPES};
use crate::ops::qkv::STRIDES_SOURCE;

const TENSORS: Source = source!("softmax/types.wgsl");

static KERNELS: [Kernel; 3] = [
    attend::tiled_kernel(
        "softmax_attend",
        &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCALED, NO_SQUARES, CORE, source!("softmax/attend.wgsl")],
        PROOF,
    ),
    attend::split_kernel(
        "softmax_split",
        &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCALED, SPLIT, source!("softmax/split.wgsl")],
    ),
    attend::merge_kernel("softmax_merge", &[STRIDES_SOURCE, TYPES, MERGE, source!("softmax/merge.wgsl")]),
];

/// What a GPU has to do.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let attention = Attention {
        op: NAME,
        qkv: &c.qkv,
        mask: c.mask(),
        score: c.effective_scale(),
        exponential: true,
        norm_eps: 0.0,
        kernels: KERNELS.each_ref(),
        overrides: vec![],
    };
    attention.program(caps)
}
