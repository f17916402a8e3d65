//! The row of `mamba` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Config, NAME, cases, summary};
use crate::catalog;
use crate::catalog::domain::Domain;
use crate::catalog::recurrent::{CU_SEQLENS, DIRECTION, SEQUENCES, STEPS, short_steps, steps};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::operator::channels::Channels;
use crate::tensor::Shape;

const DT: TensorSpec = TensorSpec::stream("dt", "B C N");
const A: TensorSpec =
    TensorSpec::weight("a", "C S").or("a_log").of(Domain::NotPositive).drawn(Draw::Shaped(real_spectrum));

const A_LOG: TensorSpec = TensorSpec::weight("a_log", "C S").of(Domain::Logarithm).drawn(Draw::Shaped(log_spectrum));
const B: TensorSpec = TensorSpec { any_rank: true, ..TensorSpec::stream("b", "B G S N").or_forms(&[("b.C", "C S")]) };
const C: TensorSpec = TensorSpec { any_rank: true, ..TensorSpec::stream("c", "B G S N").or_forms(&[("c.C", "C S")]) };
const D: TensorSpec = TensorSpec::weight("d", "C");
const Z: TensorSpec = TensorSpec { optional: true, ..TensorSpec::stream("z", "B C N") };
const DT_BIAS: TensorSpec = TensorSpec::weight("dt_bias", "C").drawn(Draw::Shaped(short_steps));

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "Mamba's selective scan, from dt to the gated output",
    inputs: &[catalog::channels::X, DT, A, A_LOG, B, C, D, Z, DT_BIAS, CU_SEQLENS],
    outputs: &[catalog::channels::Y],
    state: &[TensorSpec::state("state", "B C S")],
    axes: &[
        catalog::channels::AXES[0],
        catalog::channels::AXES[1],
        catalog::channels::AXES[2],
        ("G", AxisDefault::Length(1)),
        ("S", AxisDefault::Length(16)),
        SEQUENCES,
    ],
    flags: &[STEPS[0], STEPS[1], STEPS[2], STEPS[3], DIRECTION],
    causal: Causality::Always,
    recurrent: true,
    rows_apart: false,
    complexity: "N C S",
    summaries: Some(summary::folding),
    configure,
    cases: cases::cases,
};

/// Draws rates of about -1, -2, ... -S, which models start with, each scattered by a tenth.
fn real_spectrum(shape: &Shape, values: &mut [f32]) {
    log_spectrum(shape, values);
    values.iter_mut().for_each(|a| *a = -a.exp());
}

/// Draws logarithms of such rates without their sign.
fn log_spectrum(shape: &Shape, values: &mut [f32]) {
    let states = shape.dims()[1];
    for row in values.chunks_exact_mut(states) {
        row.iter_mut().enumerate().for_each(|(s, a)| *a = (s as f32 + 1.0).ln() + 0.1 * *a);
    }
}

/// Whether b, or c, is one vector per channel for all tokens. Checks its shape.
fn is_constant(request: &Request<'_>, spec: &TensorSpec, shape: &Channels, states: usize) -> Result<bool, Error> {
    let Some(given) = request.shape(spec.name).filter(|given| given.rank() == 2) else { return Ok(false) };
    if given.dims() != [shape.channels, states] {
        let expected = format!("[B, G, S, N], [B, S, N] or, as a has it, [{}, {states}]", shape.channels);
        return Err(Error::tensor(NAME, spec.name, expected, given.to_string()));
    }
    Ok(true)
}

/// The number of groups of b and c, or `None` if they have no axis for groups. Checks their shapes.
fn along(request: &Request<'_>, shape: &Channels, states: usize) -> Result<Option<usize>, Error> {
    let mut groups = None;
    for spec in [&B, &C] {
        if is_constant(request, spec, shape, states)? {
            continue;
        }
        // Refuses a tensor that is missing, or whose rank is neither 3 nor 4.
        let dims = match request.shape(spec.name) {
            Some(given) if given.rank() == 3 && !given.dims().contains(&0) => given,
            _ => request.required(NAME, spec)?,
        };
        let refuse = |expected: String| Err(Error::tensor(NAME, spec.name, expected, dims.to_string()));
        let (dims, own) = match *dims.dims() {
            [batch, groups, states, length] => ([batch, states, length], Some(groups)),
            _ => ([dims.dims()[0], dims.dims()[1], dims.dims()[2]], None),
        };
        for (what, expected, of, found) in [
            ("batch B", shape.batch, "x", dims[0]),
            ("states S", states, "a", dims[1]),
            ("length N", shape.length, "x", dims[2]),
        ] {
            if expected != found {
                return refuse(format!("{what} = {expected} as in {of}"));
            }
        }
        if let Some(groups) = own.filter(|groups| !shape.channels.is_multiple_of(*groups)) {
            return refuse(format!("groups G that divide the {} channels, not {groups}", shape.channels));
        }
        match groups {
            None => groups = Some(own),
            Some(before) if before != own => return refuse("the groups that b has".into()),
            Some(_) => {}
        }
    }
    Ok(groups.flatten())
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let shape = catalog::channels::of(&OP, request)?;
    let a_log = request.optional(NAME, &A_LOG)?;
    let a = match (a_log, request.shape("a")) {
        (Some(_), Some(a)) => return Err(Error::tensor(NAME, "a", "none beside `a_log`", a.to_string())),
        (Some(a_log), None) => a_log,
        (None, _) => request.required(NAME, &A)?,
    };
    let channels = format!("C = {} channels as in x", shape.channels);
    for (tensor, given) in [
        (if a_log.is_some() { "a_log" } else { "a" }, Some(a)),
        ("d", request.optional(NAME, &D)?),
        ("dt_bias", request.optional(NAME, &DT_BIAS)?),
    ] {
        if let Some(given) = given.filter(|given| given.dims()[0] != shape.channels) {
            return Err(Error::tensor(NAME, tensor, channels, given.to_string()));
        }
    }
    for (spec, given) in [(&DT, Some(request.required(NAME, &DT)?)), (&Z, request.optional(NAME, &Z)?)] {
        if let Some(given) = given.filter(|given| **given != shape.shape()) {
            return Err(Error::tensor(NAME, spec.name, format!("{} as x", shape.shape()), given.to_string()));
        }
    }
    let states = a.dims()[1];
    let config = Config {
        groups: along(request, &shape, states)?,
        constant_b: is_constant(request, &B, &shape, states)?,
        constant_c: is_constant(request, &C, &shape, states)?,
        a_log: a_log.is_some(),
        d: request.shape("d").is_some(),
        z: request.shape("z").is_some(),
        dt_bias: request.shape("dt_bias").is_some(),
        steps: steps(NAME, request.flags)?,
        mode: request.mode(NAME)?,
        ..Config::new(shape, states)
    };
    config.validate()?;
    Ok(Box::new(config))
}
