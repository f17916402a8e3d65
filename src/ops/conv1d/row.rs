//! The row of `conv1d` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Activation, ChannelLayout, Config, NAME, Padding, cases};
use crate::catalog::channels;
use crate::catalog::flags::{Flag, FlagKind};
use crate::catalog::recurrent::{CU_SEQLENS, SEQUENCES};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::operator::channels::Channels;
use crate::tensor::Layout;

const X: TensorSpec = TensorSpec { follows_layout: true, ..channels::X };
const Y: TensorSpec = TensorSpec { follows_layout: true, ..channels::Y };
const WEIGHT: TensorSpec =
    TensorSpec { optional: false, ..TensorSpec::weight("weight", "C W") }.or_forms(&[("weight.C1W", "C 1 W")]);
const BIAS: TensorSpec = TensorSpec::weight("bias", "C");

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "depthwise convolution of a few taps, causal or centred, with bias and SiLU",
    inputs: &[X, WEIGHT, BIAS, CU_SEQLENS],
    outputs: &[Y],
    state: &[TensorSpec::state("state", "B C (W-1)*K")],
    axes: &[channels::AXES[0], channels::AXES[1], channels::AXES[2], ("W", AxisDefault::Length(4)), SEQUENCES],
    flags: &[
        Flag {
            name: "activation",
            kind: FlagKind::Choice(&["none", "silu"]),
            help: "Activation applied to the sum [default: silu]",
        },
        Flag {
            name: "padding",
            kind: FlagKind::Choice(&["causal", "same"]),
            help: "same: taps around the token, the odd one after it; outputs depend on later inputs [default: causal]",
        },
        Flag { name: "dilation", kind: FlagKind::Count, help: "Tokens from one tap to the next [default: 1]" },
    ],
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
    let found = channels::of(&OP, request)?;
    let (layout, shape) = match request.layout {
        Layout::Bhnd => (ChannelLayout::Bcn, found),
        Layout::Bnhd => (ChannelLayout::Bnc, Channels { channels: found.length, length: found.channels, ..found }),
    };
    let weight = request.required(NAME, &WEIGHT)?;
    let bias = request.optional(NAME, &BIAS)?;
    if let [_, middle, _] = *weight.dims()
        && middle != 1
    {
        return Err(Error::tensor(NAME, "weight", WEIGHT.forms(request.layout), weight.to_string()));
    }
    for (tensor, dims) in [("weight", Some(weight)), ("bias", bias)] {
        if let Some(dims) = dims.filter(|dims| dims.dims()[0] != shape.channels) {
            let expected = format!("C = {} channels as in x", shape.channels);
            return Err(Error::tensor(NAME, tensor, expected, dims.to_string()));
        }
    }
    let config = Config {
        bias: bias.is_some(),
        activation: if flags.word("activation") == Some("none") { Activation::None } else { Activation::Silu },
        padding: if flags.word("padding") == Some("same") { Padding::Same } else { Padding::Causal },
        dilation: flags.count(NAME, "dilation")?.unwrap_or(1),
        weight_of_rank_3: weight.rank() == 3,
        layout,
        mode: request.mode(NAME)?,
        ..Config::new(shape, weight.dims()[weight.rank() - 1])
    };
    config.validate()?;
    Ok(Box::new(config))
}
