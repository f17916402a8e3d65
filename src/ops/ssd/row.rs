//! The row of `ssd` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Config, NAME, cases, convolved, summary};
use crate::catalog::domain::Domain;
use crate::catalog::flags::{Flag, FlagKind};
use crate::catalog::recurrent::{CU_SEQLENS, DIRECTION, SEQUENCES, STATE_LAYOUT, STEPS, log_rates, short_steps, steps};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::operator::short_conv::ShortConv;
use crate::tensor::Shape;

const X: TensorSpec = TensorSpec::stream("x", "B N H P");
const DT: TensorSpec = TensorSpec::stream("dt", "B N H");
const A: TensorSpec = TensorSpec::weight("a", "H").or("a_log").of(Domain::NotPositive).drawn(Draw::Shaped(rates));
const A_LOG: TensorSpec = TensorSpec::weight("a_log", "H").of(Domain::Logarithm).drawn(Draw::Shaped(log_rates));
const B: TensorSpec = TensorSpec::stream("b", "B N G S");
const C: TensorSpec = TensorSpec::stream("c", "B N G S");
const D: TensorSpec = TensorSpec::weight("d", "H").or_forms(&[("d.P", "H P")]);
const Z: TensorSpec = TensorSpec::stream("z", "B N H P").optional();
const DT_BIAS: TensorSpec = TensorSpec::weight("dt_bias", "H").drawn(Draw::Shaped(short_steps));

const CONV_WEIGHT: TensorSpec = TensorSpec::weight("conv_weight", "C W");
const CONV_BIAS: TensorSpec = TensorSpec::weight("conv_bias", "C");

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "Mamba-2's state space recurrence (SSD), from dt to the gated output",
    inputs: &[X, DT, A, A_LOG, B, C, D, Z, DT_BIAS, CU_SEQLENS, CONV_WEIGHT, CONV_BIAS],
    outputs: &[TensorSpec::stream("y", "B N H P")],
    state: &[TensorSpec::state("state", "B H P S"), TensorSpec::state("conv_state", "B C W-1")],
    axes: &[
        ("B", AxisDefault::Length(1)),
        ("N", AxisDefault::Length(1024)),
        ("H", AxisDefault::Length(16)),
        ("P", AxisDefault::Length(64)),
        ("G", AxisDefault::Length(1)),
        ("S", AxisDefault::Length(128)),
        SEQUENCES,
        ("C", AxisDefault::Length(1280)),
        ("W", AxisDefault::Length(4)),
    ],
    flags: &[
        STEPS[0],
        STEPS[1],
        STEPS[2],
        STEPS[3],
        DIRECTION,
        STATE_LAYOUT,
        Flag {
            name: "conv-activation",
            kind: FlagKind::Choice(&["none", "silu"]),
            help: "With --decode and `conv_weight`: activation that follows the convolution of x, b and c [default: silu]",
        },
    ],
    causal: Causality::Always,
    recurrent: true,
    rows_apart: false,
    complexity: "N P S",
    summaries: Some(summary::folding),
    configure,
    cases: cases::cases,
};

/// Draws rates below -1, the range that models start with.
fn rates(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|a| *a = -1.0 - a.abs());
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let x = request.required(NAME, &X)?.dims();
    let b = request.required(NAME, &B)?.dims();
    let config = Config {
        batch: x[0],
        groups: b[2],
        dtype: request.dtype,
        a_log: request.shape("a_log").is_some(),
        d: request.shape("d").is_some(),
        d_per_channel: request.shape("d").is_some_and(|shape| shape.rank() == 2),
        z: request.shape("z").is_some(),
        dt_bias: request.shape("dt_bias").is_some(),
        steps: steps(NAME, request.flags)?,
        mode: request.mode(NAME)?,
        ..Config::new(x[1], x[2], x[3], b[3])
    };
    if let (Some(a), Some(_)) = (request.shape("a"), request.shape("a_log")) {
        return Err(Error::tensor(NAME, "a", "none beside `a_log`", a.to_string()));
    }
    let conv = match (request.optional(NAME, &CONV_WEIGHT)?, request.optional(NAME, &CONV_BIAS)?) {
        (None, None) if request.flags.word("conv-activation").is_none() => None,
        (None, _) => return Err(Error::rule(NAME, "conv_weight", " is needed for conv_bias and --conv-activation")),
        (Some(weight), bias) => {
            let silu = request.flags.word("conv-activation") != Some("none");
            Some(ShortConv { width: weight.dims()[1], bias: bias.is_some(), silu })
        }
    };
    let operator: Box<dyn Operator> = match conv {
        None => Box::new(config),
        Some(conv) => Box::new(convolved::Config { step: config, conv }),
    };
    let slots = operator.slots();
    // All other tensors must have the shapes that follow from those of x and b.
    for spec in OP.inputs {
        let instead = spec.alternative.is_some_and(|other| request.shape(other).is_some());
        let shape =
            if spec.optional || instead { request.optional(NAME, spec)? } else { Some(request.required(NAME, spec)?) };
        let Some(shape) = shape else { continue };
        let wanted = slots.iter().flat_map(|slot| &slot.parts).find(|part| part.name == spec.name);
        if let Some(wanted) = wanted.filter(|wanted| wanted.shape != *shape) {
            let expected = format!("{} with x and b as they are", wanted.shape);
            return Err(Error::tensor(NAME, spec.name, expected, shape.to_string()));
        }
    }
    operator.validate()?;
    Ok(operator)
}
