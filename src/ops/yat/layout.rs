//! Builds the GPU program of a configuration: the tiled attention core (`src/cores/attention`), applied directly to q,
//! k and v, with the Yat kernel as its score. Pure: no wgpu type.

use super::{Config, Kernel as YatKernel, NAME, Norm};
use crate::cores::attention::{self, Attention, SQUARES};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::Program;
use crate::gpu::shader::{Fragment, Kernel, fragment};

const SCORE: Fragment = fragment!("yat/score.wgsl");

/// Why every index is within bounds.
const PROOF: &str = "as those of the core; a pair whose distance is computed from the vectors is of a row and a key of the \
                     tensors, because those past the end repeat the last one";

static KERNELS: [Kernel; 4] = [
    attention::tiled_kernel("yat_attention", PROOF),
    attention::split_kernel("yat_split_k"),
    attention::merge_kernel("yat_split_k_merge"),
    attention::matrix_kernel("yat_matrix"),
];

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let attention = Attention {
        op: NAME,
        qkv: &c.qkv,
        mask: c.rule(),
        score: c.epsilon,
        exponential: c.norm == Norm::Softmax,
        norm_eps: if c.norm == Norm::Kernel { c.norm_eps } else { 0.0 },
        extras: c.extras(),
        kernels: &KERNELS,
        fragments: [&[SCORE, SQUARES], &[SCORE]],
        overrides: vec![("EUCLIDEAN", (c.kernel == YatKernel::Euclidean).into())],
    };
    attention.program(caps)
}
