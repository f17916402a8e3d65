//! The row of `softmax` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Config, NAME, cases};
use crate::catalog;
use crate::catalog::flags::{Flag, FlagKind};
use crate::catalog::request::Request;
use crate::catalog::spec::{Causality, Op};
use crate::error::Error;
use crate::operator::Operator;

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "exact softmax attention, tiled: the baseline for the others",
    inputs: &catalog::qkv::INPUTS,
    outputs: &[catalog::qkv::OUTPUT],
    state: &[],
    axes: &catalog::qkv::AXES,
    flags: &[
        Flag { name: "scale", kind: FlagKind::Number, help: "Factor of the scores [default: 1/sqrt D]" },
        Flag {
            name: "window",
            kind: FlagKind::Count,
            help: "Query i sees only keys i-W+1 to i; needs the causal form [default: no window]",
        },
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
    let config = Config {
        causal: flags.switch("causal").unwrap_or(true),
        window: flags.count(NAME, "window")?,
        scale: flags.number(NAME, "scale")?,
        ..Config::new(catalog::qkv::of(&OP, request)?)
    };
    config.validate()?;
    Ok(Box::new(config))
}
