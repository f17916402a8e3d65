//! Mamba-2's recurrence in its state-space dual form: linear attention with one decay a head, whose step also scales what is
//! written.
//!
//! For every batch entry and head h, with group g = h / (H / G) of b and c:
//!
//! ```text
//! dt_t = softplus(dt[t,h] + dt_bias[h])                                  or without softplus, dt + dt_bias
//! S_t  = exp(dt_t a[h]) S_{t-1} + dt_t x[t,h] b[t,g]^T     [P, S]        a = -exp(a_log) where that is given
//! y_t  = S_t c[t,g] + d[h] x[t,h]                          [P]
//! y_t  = y_t z[t,h] / (1 + exp(-z[t,h]))                                 where there is z
//! ```
//!
//! That is rule `gated` of [`linear`](super::linear) with q = c, k = b, v = dt x and g = dt a, and runs in the same kernels.
//! Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), sections 5 and 6; code state-spaces/mamba. The norm that
//! follows in its block is not part of it.
//!
//! Values of a must be below 0, and dt not below 0, for the state to decay: `subquad run` refuses others in a, this library
//! takes them as they are.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::{
    AxisDefault, Causality, Cost, Definition, Domain, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv,
    Request, Rows, TensorSpec,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Layout, Shape, Slot, Tensor, TensorMap};

const NAME: &str = "ssd";

/// The largest number of states S.
pub const MAX_STATES: usize = 256;

const X: TensorSpec = TensorSpec::stream("x", "B N H P");
const DT: TensorSpec = TensorSpec::stream("dt", "B N H");
const A: TensorSpec = TensorSpec::weight("a", "H").or("a_log").of(Domain::Negative).drawn(Draw::Shaped(rates));
const A_LOG: TensorSpec = TensorSpec::weight("a_log", "H").drawn(Draw::Shaped(log_rates));
const B: TensorSpec = TensorSpec::stream("b", "B N G S");
const C: TensorSpec = TensorSpec::stream("c", "B N G S");
const D: TensorSpec = TensorSpec::weight("d", "H");
const Z: TensorSpec = TensorSpec::stream("z", "B N H P").optional();
const DT_BIAS: TensorSpec = TensorSpec::weight("dt_bias", "H").drawn(Draw::Shaped(short_steps));

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "Mamba-2's recurrence in its matrix form, from dt to the gated output",
    inputs: &[X, DT, A, A_LOG, B, C, D, Z, DT_BIAS],
    outputs: &[TensorSpec::stream("y", "B N H P")],
    state: &[TensorSpec::state("state", "B H P S")],
    axes: &[
        ("B", AxisDefault::Length(1)),
        ("N", AxisDefault::Length(1024)),
        ("H", AxisDefault::Length(16)),
        ("P", AxisDefault::Length(64)),
        ("G", AxisDefault::Length(1)),
        ("S", AxisDefault::Length(128)),
    ],
    flags: &[Flag { name: "dt-softplus", kind: FlagKind::Switch, help: "dt goes through softplus (on)" }],
    causal: Causality::Always,
    recurrent: true,
    complexity: "N P S",
    usage,
    configure,
    cases: cases::cases,
};

/// Below -1, as models start.
fn rates(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|a| *a = -1.0 - a.abs());
}

/// Logarithms of the same without their sign.
fn log_rates(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|a| *a = a.abs().ln_1p());
}

/// Steps around 0.01 before softplus, as models start.
fn short_steps(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|bias| *bias = (0.01 * bias.exp()).exp_m1().ln());
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// B.
    pub batch: usize,
    /// N: tokens.
    pub length: usize,
    /// H.
    pub heads: usize,
    /// P: channels of a head.
    pub dim: usize,
    /// G, which divides H: groups of b and c.
    pub groups: usize,
    /// S: states of a channel, at most [`MAX_STATES`].
    pub states: usize,
    /// Storage of x, dt, b, c, z and y: f32 or f16.
    pub dtype: DType,
    /// Whether the tensor is `a_log`, the logarithm of -a, and not `a`.
    pub a_log: bool,
    /// Whether there is d.
    pub d: bool,
    /// Whether there is z.
    pub z: bool,
    /// Whether there is dt_bias.
    pub dt_bias: bool,
    /// Whether dt goes through softplus.
    pub softplus: bool,
    /// Tokens in a segment of the scan; `None`: the plan chooses. As in `linear`.
    pub segment: Option<usize>,
    /// Whether the state is read before and written after.
    pub carry: bool,
    /// The one-token form: one dispatch, needs N = 1 and `carry`.
    pub decode: bool,
}

impl Config {
    /// One batch entry and group, f32, a as it is, softplus; no d, z, dt_bias and no carried state.
    pub fn new(length: usize, heads: usize, dim: usize, states: usize) -> Self {
        Self {
            batch: 1,
            length,
            heads,
            dim,
            groups: 1,
            states,
            dtype: DType::F32,
            a_log: false,
            d: false,
            z: false,
            dt_bias: false,
            softplus: true,
            segment: None,
            carry: false,
            decode: false,
        }
    }

    /// As linear attention has it, each head with a state of its own.
    fn qkv(&self) -> Qkv {
        let qkv = Qkv::new(self.batch, self.heads, self.length, self.states, self.dim);
        qkv.dtype(self.dtype).layout(Layout::Bnhd)
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        for (axis, length) in [
            ("B", self.batch),
            ("N", self.length),
            ("H", self.heads),
            ("P", self.dim),
            ("G", self.groups),
            ("S", self.states),
        ] {
            if length == 0 {
                return Err(Error::setting(NAME, axis, "1 or more", "0"));
            }
        }
        if self.states > MAX_STATES {
            return Err(Error::tensor(NAME, "b", format!("at most {MAX_STATES} states S"), self.states.to_string()));
        }
        if !self.heads.is_multiple_of(self.groups) {
            let expected = format!("groups G that divide the {} heads", self.heads);
            return Err(Error::tensor(NAME, "b", expected, format!("{} groups", self.groups)));
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "x", "f32 or f16", self.dtype.name()));
        }
        if self.decode && self.length != 1 {
            return Err(Error::tensor(NAME, "x", "N = 1 to decode", format!("N = {}", self.length)));
        }
        super::check_walk(NAME, self.length, self.length, true, self.carry, self.decode, self.segment)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: `a` or `a_log [H]`, then `d [H]` and `dt_bias [H]` as far as there are any.
    pub fn weights_slot(&self) -> Slot {
        let mut parts = vec![(if self.a_log { "a_log" } else { "a" }, [self.heads].into())];
        parts.extend(self.d.then(|| ("d", [self.heads].into())));
        parts.extend(self.dt_bias.then(|| ("dt_bias", [self.heads].into())));
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The state, `[B, H, P, S]`.
    pub fn state_slot(&self) -> Slot {
        let shape = [self.batch, self.heads, self.dim, self.states];
        Slot::plain("state", Access::Update, DType::F32, shape)
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let (b, n) = (self.batch, self.length);
        let slot = |name, access, shape: Shape| Slot::plain(name, access, self.dtype, shape);
        let x = || Shape::from([b, n, self.heads, self.dim]);
        let shared = || Shape::from([b, n, self.groups, self.states]);
        // In the order of the recurrences: what reads, what writes, what is written, the output.
        let mut slots = vec![
            slot("c", Access::Read, shared()),
            slot("b", Access::Read, shared()),
            slot("x", Access::Read, x()),
            slot("y", Access::Write, x()),
            slot("dt", Access::Read, [b, n, self.heads].into()),
            self.weights_slot(),
        ];
        slots.extend(self.z.then(|| slot("z", Access::Read, x())));
        slots.extend(self.carry.then(|| self.state_slot()));
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

/// Inputs on the GPU, with the shapes of the module's formula.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[B, N, H, P]`.
    pub x: &'a Tensor,
    /// `[B, N, H]`.
    pub dt: &'a Tensor,
    /// a, d and dt_bias in one buffer: see [`Config::weights_slot`].
    pub weights: &'a Tensor,
    /// `[B, N, G, S]`.
    pub b: &'a Tensor,
    /// `[B, N, G, S]`.
    pub c: &'a Tensor,
    /// `[B, N, H, P]`; given if and only if [`Config::z`].
    pub z: Option<&'a Tensor>,
    /// `[B, N, H, P]`, written.
    pub y: &'a Tensor,
    /// `[B, H, P, S]`, updated in place; given if and only if [`Config::carry`].
    pub state: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { x, dt, weights, b, c, z, y, state } = tensors;
    let mut named = vec![("c", c), ("b", b), ("x", x), ("y", y), ("dt", dt), ("weights", weights)];
    named.extend(z.map(|z| ("z", z)));
    named.extend(state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

fn usage(flags: &Flags) -> Result<(), Error> {
    flags.count(NAME, "segment")?;
    super::check_decode_flags(NAME, flags)
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let x = request.required(NAME, &X)?.dims();
    let b = request.required(NAME, &B)?.dims();
    let config = Config {
        batch: x[0],
        groups: b[2],
        dtype: request.dtype,
        a_log: request.shape("a_log").is_some(),
        d: request.shape("d").is_some(),
        z: request.shape("z").is_some(),
        dt_bias: request.shape("dt_bias").is_some(),
        softplus: flags.switch("dt-softplus").unwrap_or(true),
        segment: flags.count(NAME, "segment")?,
        carry: request.carry,
        decode: flags.switch("decode").unwrap_or(false),
        ..Config::new(x[1], x[2], x[3], b[3])
    };
    if let (Some(a), Some(_)) = (request.shape("a"), request.shape("a_log")) {
        return Err(Error::tensor(NAME, "a", "none beside `a_log`", a.to_string()));
    }
    // Whatever else is given has the shape that follows from those of x and b.
    for spec in OP.inputs {
        let instead = spec.unless.is_some_and(|other| request.shape(other).is_some());
        let shape =
            if spec.optional || instead { request.optional(NAME, spec)? } else { Some(request.required(NAME, spec)?) };
        let Some(shape) = shape else { continue };
        let wanted = config.slots().into_iter().flat_map(|slot| slot.parts).find(|part| part.name == spec.name);
        if let Some(wanted) = wanted.filter(|wanted| wanted.shape != *shape) {
            let expected = format!("{} with x and b as they are", wanted.shape);
            return Err(Error::tensor(NAME, spec.name, expected, shape.to_string()));
        }
    }
    config.validate()?;
    Ok(Box::new(config))
}
