//! The row of `yat` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Config, Kernel, NAME, Norm, cases};
use crate::catalog;
use crate::catalog::attention::{self, LENGTHS};
use crate::catalog::flags::{Flag, FlagKind};
use crate::catalog::recurrent::{CU_SEQLENS, SEQUENCES};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Op};
use crate::error::Error;
use crate::operator::Operator;

/// Axes of its tensors.
const AXES: [(&str, AxisDefault); 8] = catalog::qkv::axes_and([SEQUENCES]);

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "exact attention with the Yat kernel, tiled; slay approximates it",
    inputs: &[catalog::qkv::INPUTS[0], catalog::qkv::INPUTS[1], catalog::qkv::INPUTS[2], LENGTHS, CU_SEQLENS],
    outputs: &[catalog::qkv::OUTPUT],
    state: &attention::CACHE,
    axes: &AXES,
    flags: &[
        Flag {
            name: "kernel",
            kind: FlagKind::Choice(&["spherical", "euclidean"]),
            help: "Kernel of unit vectors (spherical), or of q and k unchanged (euclidean) [default: spherical]",
        },
        Flag {
            name: "norm",
            kind: FlagKind::Choice(&["kernel", "softmax"]),
            help: "Normalisation: divide by the sum of the kernel, or apply softmax to it [default: kernel]",
        },
        Flag {
            name: "epsilon",
            kind: FlagKind::Number,
            help: "Number added to the denominator of the kernel [default: 1e-3]",
        },
        Flag {
            name: "norm-eps",
            kind: FlagKind::Number,
            help: "Number added to the sum of the kernel [default: 1e-6]",
        },
        attention::ALIGN,
    ],
    causal: Causality::Both,
    recurrent: false,
    rows_apart: true,
    complexity: "N M (D + E)",
    summaries: None,
    configure,
    cases: cases::cases,
};

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    attention::check_cache(NAME, request)?;
    let mut config = Config {
        causal: flags.switch("causal").unwrap_or(true),
        align: attention::align(flags),
        lengths: request.optional(NAME, &LENGTHS)?.is_some(),
        sequences: request.optional(NAME, &CU_SEQLENS)?.map(|shape| shape.dims()[0] - 1),
        kernel: if flags.word("kernel") == Some("euclidean") { Kernel::Euclidean } else { Kernel::Spherical },
        norm: if flags.word("norm") == Some("softmax") { Norm::Softmax } else { Norm::Kernel },
        ..Config::new(catalog::qkv::of(&OP, request)?)
    };
    if let Some(epsilon) = flags.number(NAME, "epsilon")? {
        config.epsilon = epsilon;
    }
    if let Some(eps) = flags.number(NAME, "norm-eps")? {
        config.norm_eps = eps;
    }
    if config.norm == Norm::Softmax && flags.word("norm-eps").is_some() {
        let why = "needs the sum of the kernel, which --norm softmax does not divide by";
        return Err(Error::Usage(format!("{NAME}: --norm-eps {why}")));
    }
    config.validate()?;
    Ok(Box::new(config))
}
