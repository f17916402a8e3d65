//! The row of `conv1d` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Activation, Config, NAME, cases};
use crate::catalog;
use crate::catalog::flags::{Flag, FlagKind};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;

const WEIGHT: TensorSpec = TensorSpec { optional: false, ..TensorSpec::weight("weight", "C W") };
const BIAS: TensorSpec = TensorSpec::weight("bias", "C");

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "causal depthwise convolution of a few taps, with bias and SiLU",
    inputs: &[catalog::channels::X, WEIGHT, BIAS],
    outputs: &[catalog::channels::Y],
    state: &[TensorSpec::state("state", "B C W-1")],
    axes: &[
        catalog::channels::AXES[0],
        catalog::channels::AXES[1],
        catalog::channels::AXES[2],
        ("W", AxisDefault::Length(4)),
    ],
    flags: &[Flag {
        name: "activation",
        kind: FlagKind::Choice(&["none", "silu"]),
        help: "Activation applied to the sum [default: silu]",
    }],
    causal: Causality::Always,
    recurrent: true,
    rows_apart: false,
    complexity: "N C W",
    summaries: None,
    configure,
    cases: cases::cases,
};

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    let shape = catalog::channels::of(&OP, request)?;
    let weight = request.required(NAME, &WEIGHT)?;
    let bias = request.optional(NAME, &BIAS)?;
    for (tensor, dims) in [("weight", Some(weight)), ("bias", bias)] {
        if let Some(dims) = dims.filter(|dims| dims.dims()[0] != shape.channels) {
            let expected = format!("C = {} channels as in x", shape.channels);
            return Err(Error::tensor(NAME, tensor, expected, dims.to_string()));
        }
    }
    let config = Config {
        bias: bias.is_some(),
        activation: if flags.word("activation") == Some("none") { Activation::None } else { Activation::Silu },
        mode: request.mode(NAME)?,
        ..Config::new(shape, weight.dims()[1])
    };
    config.validate()?;
    Ok(Box::new(config))
}
