//! Builds the GPU program of a configuration: the tiled attention core (`src/cores/attention`), applied directly to q,
//! k and v. Pure: no wgpu type.

use super::{Config, NAME};
use crate::cores::attention::{self, Attention, CAPPED, EXPONENTIAL, FINAL, NO_SQUARES, PROOF, SCALED, TANH};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::Program;
use crate::gpu::shader::Kernel;

static KERNELS: [Kernel; 4] = [
    attention::tiled_kernel("softmax_attention", PROOF),
    attention::split_kernel("softmax_split_k"),
    attention::merge_kernel("softmax_split_k_merge"),
    attention::matrix_kernel("softmax_matrix"),
];

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let scale = c.effective_scale();
    let attention = Attention {
        op: NAME,
        qkv: &c.qkv,
        mask: c.rule(),
        score: c.softcap.map_or(attention::scaled(scale), |cap| scale / cap),
        exponential: true,
        norm_eps: 0.0,
        extras: c.extras(),
        kernels: &KERNELS,
        fragments: match c.softcap {
            None => [&[SCALED, FINAL, NO_SQUARES], &[SCALED, FINAL]],
            Some(_) => [&[EXPONENTIAL, TANH, CAPPED, FINAL, NO_SQUARES], &[EXPONENTIAL, TANH, CAPPED, FINAL]],
        },
        overrides: vec![],
    };
    attention.program(caps)
}
