//! Mamba's selective scan: every channel a recurrence over a few states, whose step, input and read-out are given token by
//! token.
//!
//! For every batch entry and channel ch, with group g = ch / (C / G) of b and c:
//!
//! ```text
//! dt_t   = softplus(dt[ch,t] + dt_bias[ch])                                  or without softplus, dt + dt_bias
//! h_t[s] = exp(dt_t a[ch,s]) h_{t-1}[s] + dt_t b[g,s,t] x[ch,t]              a = -exp(a_log) where that is given
//! y_t    = sum_s c[g,s,t] h_t[s] + d[ch] x[ch,t]
//! y_t    = y_t z[ch,t] / (1 + exp(-z[ch,t]))                                 where there is z
//! ```
//!
//! a is discretised exactly and b by Euler's rule, as the released code does. Sources: Gu and Dao, "Mamba: Linear-time sequence
//! modeling with selective state spaces" (arXiv 2312.00752), section 3; code state-spaces/mamba.
//!
//! A segment of tokens acts on a state as `h -> exp(a sum dt) h + own`: what it makes of a state of zeros, and one number a
//! channel for how much of an earlier one is left. So segments run side by side, these pairs are put together from the left,
//! and a second walk over x, dt and b goes on from the states; nothing of size N x C x S is stored.
//!
//! Values of a must be below 0, and dt not below 0, for the state to decay: `subquad run` refuses others in a, this library
//! takes them as they are.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::{
    AxisDefault, Causality, Channels, Cost, Definition, Domain, Draw, Flag, FlagKind, Flags, Op, Operator, Precision,
    Request, Rows, TensorSpec, channels,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Shape, Slot, Tensor, TensorMap};

const NAME: &str = "mamba";

/// The largest number of states of a channel.
pub const MAX_STATES: usize = 256;

const DT: TensorSpec = TensorSpec::stream("dt", "B C N");
const A: TensorSpec =
    TensorSpec::weight("a", "C S").or("a_log").of(Domain::Negative).drawn(Draw::Shaped(real_spectrum));
const A_LOG: TensorSpec = TensorSpec::weight("a_log", "C S").drawn(Draw::Shaped(log_spectrum));
const B: TensorSpec = TensorSpec { several: true, ..TensorSpec::stream("b", "B G S N") };
const C: TensorSpec = TensorSpec { several: true, ..TensorSpec::stream("c", "B G S N") };
const D: TensorSpec = TensorSpec::weight("d", "C");
const Z: TensorSpec = TensorSpec { optional: true, ..TensorSpec::stream("z", "B C N") };
const DT_BIAS: TensorSpec = TensorSpec::weight("dt_bias", "C").drawn(Draw::Shaped(short_steps));

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "Mamba's selective scan, from dt to the gated output",
    inputs: &[channels::X, DT, A, A_LOG, B, C, D, Z, DT_BIAS],
    outputs: &[channels::Y],
    state: &[TensorSpec::state("state", "B C S")],
    axes: &[
        channels::AXES[0],
        channels::AXES[1],
        channels::AXES[2],
        ("G", AxisDefault::Length(1)),
        ("S", AxisDefault::Length(16)),
    ],
    flags: &[Flag { name: "dt-softplus", kind: FlagKind::Switch, help: "dt goes through softplus (on)" }],
    causal: Causality::Always,
    recurrent: true,
    complexity: "N C S",
    usage,
    configure,
    cases: cases::cases,
};

/// About -1, -2, ... -S, as models start, each scattered by a tenth.
fn real_spectrum(shape: &Shape, values: &mut [f32]) {
    log_spectrum(shape, values);
    values.iter_mut().for_each(|a| *a = -a.exp());
}

/// Logarithms of the same without their sign.
fn log_spectrum(shape: &Shape, values: &mut [f32]) {
    let states = shape.dims()[1];
    for row in values.chunks_exact_mut(states) {
        row.iter_mut().enumerate().for_each(|(s, a)| *a = (s as f32 + 1.0).ln() + 0.1 * *a);
    }
}

/// Steps around 0.01 before softplus, as models start.
fn short_steps(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|bias| *bias = (0.01 * bias.exp()).exp_m1().ln());
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shape of x, dt, z and y, and the storage of these and of b and c.
    pub shape: Channels,
    /// S: states of a channel, at most [`MAX_STATES`].
    pub states: usize,
    /// G, which divides C: b and c are `[B, G, S, N]`. `None`: they are `[B, S, N]`, and all channels share them.
    pub groups: Option<usize>,
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
    /// Tokens in a segment of the scan; `None`: the plan chooses. With a length given, a sequence in pieces, cut at multiples
    /// of it, equals the whole bit for bit.
    pub segment: Option<usize>,
    /// Whether the state is read before and written after.
    pub carry: bool,
    /// The one-token form: one dispatch, needs N = 1 and `carry`.
    pub decode: bool,
}

impl Config {
    /// One group without an axis of its own, a as it is, softplus; no d, z, dt_bias and no carried state.
    pub fn new(shape: Channels, states: usize) -> Self {
        Self {
            shape,
            states,
            groups: None,
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

    /// G in force.
    pub fn group_count(&self) -> usize {
        self.groups.unwrap_or(1)
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.shape.validate(NAME)?;
        let a = if self.a_log { "a_log" } else { "a" };
        if self.states == 0 || self.states > MAX_STATES {
            return Err(Error::tensor(NAME, a, format!("1 to {MAX_STATES} states S"), self.states.to_string()));
        }
        let groups = self.group_count();
        if groups == 0 || !self.shape.channels.is_multiple_of(groups) {
            let expected = format!("groups G that divide the {} channels", self.shape.channels);
            return Err(Error::tensor(NAME, "b", expected, format!("{groups} groups")));
        }
        self.shape.check_walk(NAME, self.carry, self.decode, self.segment)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: `a` or `a_log [C, S]`, then `d [C]` and `dt_bias [C]` as far as there are any.
    pub fn weights_slot(&self) -> Slot {
        let channels = self.shape.channels;
        let a = if self.a_log { "a_log" } else { "a" };
        let mut parts = vec![(a, [channels, self.states].into())];
        parts.extend(self.d.then(|| ("d", [channels].into())));
        parts.extend(self.dt_bias.then(|| ("dt_bias", [channels].into())));
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The state, `[B, C, S]`.
    pub fn state_slot(&self) -> Slot {
        let shape = [self.shape.batch, self.shape.channels, self.states];
        Slot::plain("state", Access::Update, DType::F32, shape)
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let (batch, length) = (self.shape.batch, self.shape.length);
        let along = |name| {
            let shape: Shape = match self.groups {
                Some(groups) => [batch, groups, self.states, length].into(),
                None => [batch, self.states, length].into(),
            };
            Slot::plain(name, Access::Read, self.shape.dtype, shape)
        };
        let mut slots = vec![
            self.shape.slot("x", Access::Read),
            self.shape.slot("dt", Access::Read),
            along("b"),
            along("c"),
            self.weights_slot(),
            self.shape.slot("y", Access::Write),
        ];
        slots.extend(self.z.then(|| self.shape.slot("z", Access::Read)));
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
        cpu::variant()
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
    /// `[B, C, N]`.
    pub x: &'a Tensor,
    /// `[B, C, N]`.
    pub dt: &'a Tensor,
    /// `[B, G, S, N]`, or `[B, S, N]` without [`Config::groups`].
    pub b: &'a Tensor,
    /// As `b`.
    pub c: &'a Tensor,
    /// `[B, C, N]`; given if and only if [`Config::z`].
    pub z: Option<&'a Tensor>,
    /// a, d and dt_bias in one buffer: see [`Config::weights_slot`].
    pub weights: &'a Tensor,
    /// `[B, C, N]`, written.
    pub y: &'a Tensor,
    /// `[B, C, S]`, f32; given if and only if [`Config::carry`].
    pub state: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { x, dt, b, c, z, weights, y, state } = tensors;
    let mut named = vec![("x", x), ("dt", dt), ("b", b), ("c", c), ("weights", weights), ("y", y)];
    named.extend(z.map(|z| ("z", z)));
    named.extend(state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

fn usage(flags: &Flags) -> Result<(), Error> {
    flags.count(NAME, "segment")?;
    super::check_decode_flags(NAME, flags)
}

/// G, S and whether b and c have an axis for groups, from their shapes.
fn along(request: &Request<'_>, shape: &Channels, states: usize) -> Result<Option<usize>, Error> {
    let mut groups = None;
    for spec in [&B, &C] {
        // Complains if it is missing, or of a rank that is neither.
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
    let flags = request.flags;
    usage(flags)?;
    let shape = Channels::of(&OP, request)?;
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
        a_log: a_log.is_some(),
        d: request.shape("d").is_some(),
        z: request.shape("z").is_some(),
        dt_bias: request.shape("dt_bias").is_some(),
        softplus: flags.switch("dt-softplus").unwrap_or(true),
        segment: flags.count(NAME, "segment")?,
        carry: request.carry,
        decode: flags.switch("decode").unwrap_or(false),
        ..Config::new(shape, states)
    };
    config.validate()?;
    Ok(Box::new(config))
}
