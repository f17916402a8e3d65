//! The row of `mta` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::{Config, Gate, Gates, NAME, Taps, cases};
use crate::catalog;
use crate::catalog::flags::{Flag, FlagKind, Flags};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::Shape;

const KQ_PRE: TensorSpec = TensorSpec::weight("kq_pre", "H cq ck").drawn(Draw::Shaped(taps));
const KQ_POST: TensorSpec = TensorSpec::weight("kq_post", "H cq_post ck_post").drawn(Draw::Shaped(taps));
const HEAD_PRE: TensorSpec = TensorSpec::weight("head_pre", "H H").drawn(Draw::Shaped(heads));
const HEAD_POST: TensorSpec = TensorSpec::weight("head_post", "H/c c c").drawn(Draw::Shaped(heads));
const NORM: TensorSpec = TensorSpec::weight("norm", "E");
const GATE_WEIGHT: TensorSpec = TensorSpec::weight("gate_weight", "1|E E").drawn(Draw::Shaped(heads));
const GATE_BIAS: TensorSpec = TensorSpec::weight("gate_bias", "1|E");

/// Axes of its tensors.
const AXES: [(&str, AxisDefault); 14] = catalog::qkv::axes_and([
    ("cq", AxisDefault::Length(6)),
    ("ck", AxisDefault::Length(11)),
    ("cq_post", AxisDefault::Same("cq")),
    ("ck_post", AxisDefault::Same("ck")),
    ("c", AxisDefault::Same("H")),
    ("H/c", AxisDefault::Length(1)),
    ("1|E", AxisDefault::Length(1)),
]);

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "multi-token attention: softmax with weights mixed over neighbouring queries, keys and heads",
    inputs: &[
        catalog::qkv::INPUTS[0],
        catalog::qkv::INPUTS[1],
        catalog::qkv::INPUTS[2],
        KQ_PRE,
        KQ_POST,
        HEAD_PRE,
        HEAD_POST,
        NORM,
        GATE_WEIGHT,
        GATE_BIAS,
    ],
    outputs: &[catalog::qkv::OUTPUT],
    state: &[TensorSpec::state("q_tail", "B H T D"), catalog::attention::CACHE[0], catalog::attention::CACHE[1]],
    axes: &AXES,
    flags: &[
        Flag { name: "scale", kind: FlagKind::Number, help: "Factor of the scores [default: 1/sqrt D]" },
        Flag {
            name: "depth",
            kind: FlagKind::Text("LAYER"),
            help: "Index of the layer, from 0, which sets the factor of the norm; needs the tensor norm [default: no factor]",
        },
        catalog::attention::ALIGN,
    ],
    causal: Causality::Both,
    recurrent: false,
    rows_apart: true,
    complexity: "N M (D + E + cq ck + H)",
    summaries: None,
    configure,
    cases: cases::cases,
};

/// Draws kernels: the identity at the query's own cell, plus random taps whose total weight is the same.
fn taps(shape: &Shape, values: &mut [f32]) {
    let (queries, keys) = (shape.dims()[1], shape.dims()[2]);
    let size = 1.0 / ((queries * keys) as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= size);
    for head in values.chunks_exact_mut(queries * keys) {
        head[(queries - 1) * keys + keys / 2] += 1.0;
    }
}

/// Draws entries whose variance is 1 over the length of the last axis.
fn heads(shape: &Shape, values: &mut [f32]) {
    let size = 1.0 / (shape.dims().last().copied().unwrap_or(1) as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= size);
}

/// Parses the index of the layer, from 0.
fn depth(flags: &Flags) -> Result<Option<usize>, Error> {
    let Some(word) = flags.word("depth") else { return Ok(None) };
    match word.parse() {
        Ok(layer) => Ok(Some(layer)),
        Err(_) => Err(Error::Usage(format!("{NAME}: --depth: expected a layer, 0 or more, found `{word}`"))),
    }
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    let qkv = catalog::qkv::of(&OP, request)?;
    let (h, e) = (qkv.heads, qkv.dim_v);
    let given = |spec: &TensorSpec| request.optional(NAME, spec);
    let expect = |spec: &TensorSpec, fits: bool, expected: String| match request.shape(spec.name) {
        Some(found) if !fits => Err(Error::tensor(NAME, spec.name, expected, found.to_string())),
        _ => Ok(()),
    };
    let kernel = |spec: &TensorSpec| -> Result<Option<Taps>, Error> {
        let Some(shape) = given(spec)? else { return Ok(None) };
        let d = shape.dims();
        expect(spec, d[0] == h, format!("H = {h} heads as in q"))?;
        Ok(Some(Taps::new(d[1], d[2])))
    };
    let (kq_pre, kq_post) = (kernel(&KQ_PRE)?, kernel(&KQ_POST)?);
    let head_pre = given(&HEAD_PRE)?;
    expect(&HEAD_PRE, head_pre.is_none_or(|shape| shape.dims() == [h, h]), format!("[{h}, {h}], H = {h} as in q"))?;
    let head_post = given(&HEAD_POST)?.map(Shape::dims);
    let groups = format!("[H/c, c, c] of groups of heads that divide H = {h}");
    expect(&HEAD_POST, head_post.is_none_or(|d| d[1] == d[2] && d[0].checked_mul(d[1]) == Some(h)), groups)?;
    let norm = given(&NORM)?;
    expect(&NORM, norm.is_none_or(|shape| shape.dims() == [e]), format!("E = {e} as in v"))?;
    let weight = given(&GATE_WEIGHT)?.map(Shape::dims);
    let fits = weight.is_none_or(|d| d[1] == e && (d[0] == 1 || d[0] == e));
    expect(&GATE_WEIGHT, fits, format!("[1, {e}] or [{e}, {e}], E = {e} as in v"))?;
    let bias = given(&GATE_BIAS)?.map(Shape::dims);
    let gate = match (weight, bias) {
        (Some(weight), bias) => {
            let expected = format!("as many as gate_weight has rows, {}", weight[0]);
            expect(&GATE_BIAS, bias.is_none_or(|bias| bias[0] == weight[0]), expected)?;
            let gates = if weight[0] == 1 { Gates::Scalar } else { Gates::PerChannel };
            Some(Gate { gates, bias: bias.is_some() })
        }
        (None, Some(_)) => {
            let expected = format!("{}, which gate_bias is added to", GATE_WEIGHT.forms(request.layout));
            return Err(Error::Missing { op: NAME, tensor: "gate_weight".into(), expected, given: "gate_bias".into() });
        }
        (None, None) => None,
    };
    let config = Config {
        causal: flags.switch("causal").unwrap_or(true),
        align: catalog::attention::align(flags),
        scale: flags.number(NAME, "scale")?,
        kq_pre,
        kq_post,
        head_pre: head_pre.is_some(),
        head_post: head_post.map(|d| d[1]),
        norm: norm.is_some(),
        depth: depth(flags)?,
        gate,
        carry: request.carry,
        ..Config::new(qkv)
    };
    config.validate()?;
    Ok(Box::new(config))
}
