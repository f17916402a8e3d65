//! Multi-token attention: weights of neighbouring queries, keys and heads mixed before the softmax and after it.
//!
//! For every batch, with key head `h / (H / G)` read by query head `h`, over the keys j that query i sees: all; when
//! causal those with `j <= i + M - N` (aligned at the end, as in a cache). A stage whose tensor is absent is skipped.
//!
//! ```text
//! S_h[i,j]  = scale q_i . k_j where i sees j, else 0
//! S_h[i,j]  = sum_{a,b} kq_pre[h, cq-1-a, half+b] S_h[i-a, j+b]     a from 0 to cq-1, b from -half to half = (ck-1)/2
//! S_o       = sum_c head_pre[o,c] S_c
//! A_h[i,:]  = softmax of S_h[i,:] over the keys that i sees, 0 at others
//! A_h[i,j]  = sum_{a,b} kq_post[h, cq-1-a, half+b] A_h[i-a, j+b]    where i sees j, else 0
//! A_o       = sum_c head_post[group, c, o] A_c                      over the heads c of its group
//! o_i       = sum_j A_h[i,j] v_j
//! o_i       = (1 - lambda) norm o_i / sqrt(mean(o_i^2) + 1e-5)      lambda = 0.8 - 0.6 e^(-0.3 depth); 0 without depth
//! o_i       = o_i sigmoid(gate_weight o_i + gate_bias)
//! ```
//!
//! Rows before the first and keys outside the sequence count as zeros. Nothing normalises rows again after the softmax, so
//! that they need not add up to 1. A query that sees no key gives zeros before the norm. Source: "Multi-Token Attention"
//! (arXiv 2504.00927), equations 4 to 8, and its code, facebookresearch/RAM `projects/mta`, whose order of stages this is.
//! Without convolutions it is talking-heads attention (arXiv 2003.02436); without any stage, softmax.
//!
//! Going on: earlier keys and values stand in front of k and v, so that M - N of them are there, and `q_tail` has the last
//! `(cq_pre-1) + (cq_post-1)` queries before the first, whose rows the convolutions reach back to.
//!
//! Cost: `2 (D + E)` flops a query and key it sees, `2 cq ck` for a convolution, `2 H` and `2 c` for heads, all of it more
//! than once where tiles overlap; scores never reach memory. Workspace: with a stage after the softmax 8 bytes a head and
//! row, else none.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::attend::Mask;
use super::{
    AxisDefault, Causality, Cost, Definition, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv, Request, Rows,
    TensorSpec, qkv,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Shape, Slot, Tensor, TensorMap};

const NAME: &str = "mta";

/// The most query rows cq of a key-query kernel.
pub const MAX_QUERIES: usize = 16;

/// The most keys ck of a key-query kernel.
pub const MAX_KEYS: usize = 31;

/// The most value dimensions of a gate per channel.
pub const MAX_GATE: usize = 2048;

/// Added to the mean square of the norm.
const NORM_EPS: f32 = 1e-5;

const KQ_PRE: TensorSpec = TensorSpec::weight("kq_pre", "H cq ck").drawn(Draw::Shaped(taps));
const KQ_POST: TensorSpec = TensorSpec::weight("kq_post", "H cq_post ck_post").drawn(Draw::Shaped(taps));
const HEAD_PRE: TensorSpec = TensorSpec::weight("head_pre", "H H").drawn(Draw::Shaped(heads));
const HEAD_POST: TensorSpec = TensorSpec::weight("head_post", "H/c c c").drawn(Draw::Shaped(heads));
const NORM: TensorSpec = TensorSpec::weight("norm", "E");
const GATE_WEIGHT: TensorSpec = TensorSpec::weight("gate_weight", "1|E E").drawn(Draw::Shaped(heads));
const GATE_BIAS: TensorSpec = TensorSpec::weight("gate_bias", "1|E");

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "multi-token attention: softmax whose weights neighbouring queries, keys and heads share",
    inputs: &[
        qkv::INPUTS[0],
        qkv::INPUTS[1],
        qkv::INPUTS[2],
        KQ_PRE,
        KQ_POST,
        HEAD_PRE,
        HEAD_POST,
        NORM,
        GATE_WEIGHT,
        GATE_BIAS,
    ],
    outputs: &[qkv::OUTPUT],
    state: &[
        TensorSpec::state("q_tail", "B H T D"),
        TensorSpec::cache("k", "B G M D"),
        TensorSpec::cache("v", "B G M E"),
    ],
    axes: &[
        qkv::AXES[0],
        qkv::AXES[1],
        qkv::AXES[2],
        qkv::AXES[3],
        qkv::AXES[4],
        qkv::AXES[5],
        qkv::AXES[6],
        ("cq", AxisDefault::Length(6)),
        ("ck", AxisDefault::Length(11)),
        ("cq_post", AxisDefault::Same("cq")),
        ("ck_post", AxisDefault::Same("ck")),
        ("c", AxisDefault::Same("H")),
        ("H/c", AxisDefault::Length(1)),
        ("1|E", AxisDefault::Length(1)),
    ],
    flags: &[
        Flag { name: "scale", kind: FlagKind::Number, help: "factor of the scores (1/sqrt D)" },
        Flag {
            name: "depth",
            kind: FlagKind::Text("LAYER"),
            help: "layer, from 0, whose factor the norm has; needs norm (no factor)",
        },
    ],
    causal: Causality::Both,
    recurrent: false,
    complexity: "N M (D + E + cq ck + H)",
    usage,
    configure,
    cases: cases::cases,
};

/// The identity on the query's own cell, and random taps around it of which all together weigh as much.
fn taps(shape: &Shape, values: &mut [f32]) {
    let (queries, keys) = (shape.dims()[1], shape.dims()[2]);
    let size = 1.0 / ((queries * keys) as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= size);
    for head in values.chunks_exact_mut(queries * keys) {
        head[(queries - 1) * keys + keys / 2] += 1.0;
    }
}

/// Entries of variance 1 over the last axis.
fn heads(shape: &Shape, values: &mut [f32]) {
    let size = 1.0 / (shape.dims().last().copied().unwrap_or(1) as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= size);
}

/// How far a key-query kernel reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Taps {
    /// cq: the query's own row and those before it, 1 to [`MAX_QUERIES`].
    pub queries: usize,
    /// ck: keys around the cell's own, odd, 1 to [`MAX_KEYS`].
    pub keys: usize,
}

impl Taps {
    /// A kernel of cq by ck.
    pub const fn new(queries: usize, keys: usize) -> Self {
        Self { queries, keys }
    }

    /// Rows before a query's own; keys on either side. None of a kernel that is absent.
    pub(crate) fn halo(taps: Option<Self>) -> (usize, usize) {
        taps.map_or((0, 0), |taps| (taps.queries.saturating_sub(1), taps.keys / 2))
    }
}

/// What the output is multiplied by, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gates {
    /// One number a head and query: weight `[1, E]`.
    Scalar,
    /// One a channel: weight `[E, E]`.
    PerChannel,
}

/// The sigmoid gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gate {
    /// How many numbers it has.
    pub gates: Gates,
    /// Whether there is a bias.
    pub bias: bool,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to i + M - N.
    pub causal: bool,
    /// Factor of the scores; `None`: `1 / sqrt(D)`.
    pub scale: Option<f32>,
    /// The key-query convolution before the softmax: `kq_pre [H, cq, ck]`.
    pub kq_pre: Option<Taps>,
    /// That after it: `kq_post [H, cq, ck]`.
    pub kq_post: Option<Taps>,
    /// Whether scores of all heads are mixed: `head_pre [H, H]`.
    pub head_pre: bool,
    /// c: heads of a group whose weights are mixed, `head_post [H/c, c, c]`.
    pub head_post: Option<usize>,
    /// Whether each head's output is normalised: `norm [E]`.
    pub norm: bool,
    /// The layer, from 0, whose depth the norm is scaled by.
    pub depth: Option<usize>,
    /// The gate: `gate_weight [1 or E, E]` and `gate_bias [1 or E]`.
    pub gate: Option<Gate>,
    /// Whether `q_tail` is read before and written after. The first M - N keys are those of earlier runs.
    pub carry: bool,
}

impl Config {
    /// Causal, without any stage: softmax.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            causal: true,
            scale: None,
            kq_pre: None,
            kq_post: None,
            head_pre: false,
            head_post: None,
            norm: false,
            depth: None,
            gate: None,
            carry: false,
        }
    }

    /// The factor of the scores in force.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(self.qkv.default_scale())
    }

    /// `1 - lambda` of the depth; 1 without.
    pub fn depth_factor(&self) -> f64 {
        self.depth.map_or(1.0, |layer| 0.2 + 0.6 * (-0.3 * layer as f64).exp())
    }

    /// T: queries that a run takes over from before it.
    pub fn tail(&self) -> usize {
        Taps::halo(self.kq_pre).0 + Taps::halo(self.kq_post).0
    }

    /// Whether weights are changed after the softmax.
    pub(crate) fn post(&self) -> bool {
        self.kq_post.is_some() || self.head_post.is_some()
    }

    /// Whether weights are those of softmax.
    #[cfg(feature = "cpu")]
    pub(crate) fn plain(&self) -> bool {
        !(self.post() || self.kq_pre.is_some() || self.head_pre)
    }

    /// Rows before the first query that are there.
    pub(crate) fn rows_before(&self) -> usize {
        if self.carry { self.tail() } else { 0 }
    }

    /// Keys that a row sees, all from the first one on; below 0 it is a row of `q_tail`, or none.
    pub(crate) fn keys_seen(&self, row: isize) -> usize {
        let s = &self.qkv;
        if row < -(self.rows_before() as isize) {
            return 0;
        }
        if !self.causal {
            return s.keys;
        }
        (row + 1 + s.keys as isize - s.queries as isize).clamp(0, s.keys as isize) as usize
    }

    pub(crate) fn mask(&self) -> Mask {
        Mask { causal: self.causal, window: None }
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { heads, queries, keys, dim_v, .. } = self.qkv;
        self.qkv.validate(NAME)?;
        qkv::check_scale(NAME, self.effective_scale())?;
        for (tensor, taps) in [("kq_pre", self.kq_pre), ("kq_post", self.kq_post)] {
            let Some(Taps { queries, keys }) = taps else { continue };
            if !(1..=MAX_QUERIES).contains(&queries) {
                let expected = format!("1 to {MAX_QUERIES} query rows cq");
                return Err(Error::tensor(NAME, tensor, expected, queries.to_string()));
            }
            if keys > MAX_KEYS || keys.is_multiple_of(2) {
                let expected = format!("an odd number ck of keys up to {MAX_KEYS}");
                return Err(Error::tensor(NAME, tensor, expected, keys.to_string()));
            }
        }
        if let Some(group) = self.head_post.filter(|group| *group == 0 || !heads.is_multiple_of(*group)) {
            let expected = format!("groups of heads that divide H = {heads}");
            return Err(Error::tensor(NAME, "head_post", expected, format!("groups of {group}")));
        }
        if self.depth.is_some() && !self.norm {
            let expected = format!("[{dim_v}], which --depth scales");
            return Err(Error::Missing { op: NAME, tensor: "norm".into(), expected, given: "a depth".into() });
        }
        if self.gate.is_some_and(|gate| gate.gates == Gates::PerChannel) && dim_v > MAX_GATE {
            let expected = format!("at most {MAX_GATE} channels of a gate each");
            return Err(Error::tensor(NAME, "gate_weight", expected, dim_v.to_string()));
        }
        if self.carry && !self.causal {
            return Err(Error::setting(NAME, "carry", "the causal form", "the non-causal form"));
        }
        if self.carry && keys < queries {
            let expected = format!("M of N = {queries} or more with a carried state");
            return Err(Error::tensor(NAME, "k", expected, keys.to_string()));
        }
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: those given of kq_pre, kq_post, head_pre, head_post, norm, gate_weight and gate_bias, in this
    /// order, f32; `None` if there are none.
    pub fn weights_slot(&self) -> Option<Slot> {
        let Qkv { heads, dim_v, .. } = self.qkv;
        let mut parts: Vec<(&'static str, Shape)> = Vec::new();
        let mut part = |name: &'static str, shape: Option<Shape>| parts.extend(shape.map(|shape| (name, shape)));
        let kernel = |taps: Taps| Shape::from([heads, taps.queries, taps.keys]);
        part("kq_pre", self.kq_pre.map(kernel));
        part("kq_post", self.kq_post.map(kernel));
        part("head_pre", self.head_pre.then(|| [heads, heads].into()));
        part("head_post", self.head_post.map(|c| [heads / c.max(1), c, c].into()));
        part("norm", self.norm.then(|| [dim_v].into()));
        let gates = self.gate.map(|gate| if gate.gates == Gates::Scalar { 1 } else { dim_v });
        part("gate_weight", gates.map(|gates| [gates, dim_v].into()));
        part("gate_bias", gates.filter(|_| self.gate.is_some_and(|gate| gate.bias)).map(|gates| [gates].into()));
        (!parts.is_empty()).then(|| pack::slot("weights", Access::Read, DType::F32, &parts))
    }

    /// The state, `q_tail [B, H, T, D]`; none unless it is carried, nor without a kernel that reaches back.
    pub fn tail_slot(&self) -> Option<Slot> {
        let Qkv { batch, heads, dim_k, .. } = self.qkv;
        let shape = [batch, heads, self.tail(), dim_k];
        (self.carry && self.tail() > 0).then(|| Slot::plain("q_tail", Access::Update, DType::F32, shape))
    }
}

/// Slots in the order of [`Operator::slots`]: q, k, v, o, then weights and q_tail where there are any.
impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        slots.extend(self.weights_slot());
        slots.extend(self.tail_slot());
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        layout::program(self, caps)
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        self.validate()?;
        check_inputs(NAME, &self.slots(), tensors)?;
        Ok(cpu::run(self, tensors))
    }

    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String {
        cpu::variant(self)
    }

    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition {
        match precision {
            Precision::F32 => reference::outputs::<f32>(self, tensors, rows),
            Precision::F64 => reference::outputs::<f64>(self, tensors, rows),
        }
    }

    fn cost(&self) -> Cost {
        layout::essential(self)
    }
}

/// Tensors on the GPU, with the shapes of the module's formula.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[B, H, N, D]`.
    pub q: &'a Tensor,
    /// `[B, G, M, D]`.
    pub k: &'a Tensor,
    /// `[B, G, M, E]`.
    pub v: &'a Tensor,
    /// `[B, H, N, E]`, written.
    pub o: &'a Tensor,
    /// All weights in one buffer; given if and only if there is a [`Config::weights_slot`].
    pub weights: Option<&'a Tensor>,
    /// `[B, H, T, D]`, f32; given if and only if there is a [`Config::tail_slot`].
    pub q_tail: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { q, k, v, o, weights, q_tail } = tensors;
    let mut named = vec![("q", q), ("k", k), ("v", v), ("o", o)];
    named.extend(weights.map(|weights| ("weights", weights)));
    named.extend(q_tail.map(|tail| ("q_tail", tail)));
    plan.bind(&named, workspace)
}

/// The layer, from 0.
fn depth(flags: &Flags) -> Result<Option<usize>, Error> {
    let Some(word) = flags.word("depth") else { return Ok(None) };
    match word.parse() {
        Ok(layer) => Ok(Some(layer)),
        Err(_) => Err(Error::Usage(format!("{NAME}: --depth: expected a layer, 0 or more, found `{word}`"))),
    }
}

fn usage(flags: &Flags) -> Result<(), Error> {
    flags.number(NAME, "scale")?;
    depth(flags).map(drop)
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let qkv = Qkv::of(&OP, request)?;
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
