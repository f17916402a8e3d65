//! From a configuration to tiles, uniforms, workspace and dispatches: the tiled core over q, k and v as they are (see
//! `attend`), with the kernel as its score. Pure: no wgpu type.

use super::{Config, Kernel as YatKernel, NAME, Norm};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::Program;
use crate::gpu::source::{Kernel, Source, source};
use crate::ops::attend::{self, Attention, CORE, LOADS, MERGE, SPLIT, SQUARES, TYPES};
use crate::ops::qkv::STRIDES_SOURCE;

const TENSORS: Source = source!("yat/types.wgsl");
const SCORE: Source = source!("yat/score.wgsl");

/// Why indices stay in bounds.
const PROOF: &str = "as those of the core (see attend); a pair whose distance is taken anew has no zero vector in it, so it \
                     is of a row and a key of the tensors";

static KERNELS: [Kernel; 3] = [
    attend::tiled_kernel(
        "yat_attend",
        &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCORE, SQUARES, CORE, source!("yat/attend.wgsl")],
        PROOF,
    ),
    attend::split_kernel(
        "yat_split",
        &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, SCORE, SPLIT, source!("yat/split.wgsl")],
    ),
    attend::merge_kernel("yat_merge", &[STRIDES_SOURCE, TYPES, MERGE, source!("yat/merge.wgsl")]),
];

/// What a GPU has to do.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let attention = Attention {
        op: NAME,
        qkv: &c.qkv,
        mask: c.mask(),
        score: c.epsilon,
        exponential: c.norm == Norm::Softmax,
        norm_eps: if c.norm == Norm::Kernel { c.norm_eps } else { 0.0 },
        kernels: KERNELS.each_ref(),
        overrides: vec![("EUCLIDEAN", (c.kernel == YatKernel::Euclidean).into())],
    };
    attention.program(caps)
}
