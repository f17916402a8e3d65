//! The row of `softmax` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Config, NAME, cases};
use crate::catalog;
use crate::catalog::attention::{self, BIAS, LENGTHS, LSE, MASK, SINK};
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
    summary: "exact softmax attention, tiled: the baseline for the others",
    inputs: &[
        catalog::qkv::INPUTS[0],
        catalog::qkv::INPUTS[1],
        catalog::qkv::INPUTS[2],
        BIAS,
        MASK,
        SINK,
        LENGTHS,
        CU_SEQLENS,
    ],
    outputs: &[catalog::qkv::OUTPUT, LSE],
    state: &attention::CACHE,
    axes: &AXES,
    flags: &[
        Flag { name: "scale", kind: FlagKind::Number, help: "Factor of the scores [default: 1/sqrt D]" },
        Flag {
            name: "window",
            kind: FlagKind::Count,
            help: "Query i sees only keys i-W+1 to i; needs the causal form [default: no window]",
        },
        Flag {
            name: "softcap",
            kind: FlagKind::Number,
            help: "C: a score s becomes C tanh(s / C), after the scale and before the bias [default: no cap]",
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
    let qkv = catalog::qkv::of(&OP, request)?;
    attention::check_cache(NAME, request)?;
    let config = Config {
        causal: flags.switch("causal").unwrap_or(true),
        align: attention::align(flags),
        lengths: request.optional(NAME, &LENGTHS)?.is_some(),
        sequences: request.optional(NAME, &CU_SEQLENS)?.map(|shape| shape.dims()[0] - 1),
        window: flags.count(NAME, "window")?,
        scale: flags.number(NAME, "scale")?,
        softcap: flags.number(NAME, "softcap")?,
        bias: attention::pairs(NAME, request, &BIAS, &qkv)?,
        mask: attention::pairs(NAME, request, &MASK, &qkv)?,
        sink: request.optional(NAME, &SINK)?.is_some(),
        lse: flags.word(LSE.name).is_some(),
        qkv,
    };
    config.validate()?;
    Ok(Box::new(config))
}
