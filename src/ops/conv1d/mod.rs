//! The causal depthwise convolution in front of a selective scan: each channel with its own few taps.
//!
//! ```text
//! y[b,c,n] = act(bias[c] + sum_w weight[c,w] x[b,c, n - W + 1 + w])        w from 0 to W - 1
//! ```
//!
//! with zeros, or the carried window, before the first token; `act` is SiLU, `u / (1 + e^-u)`, or nothing. The state is that
//! window: the last W - 1 inputs, oldest first (none for W = 1). Sources: Gu and Dao, "Mamba" (arXiv 2312.00752), figure 3;
//! code Dao-AILab/causal-conv1d.
//!
//! An output is a sum of the same numbers in the same order wherever the sequence was cut, so pieces equal the whole bit for
//! bit at any cut; `--segment` is taken, as every recurrent operator takes it, and changes nothing.
//!
//! Cost: `2 W` flops a token and channel; x is read once, and W - 1 inputs of it again for every tile of tokens. No workspace.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::{
    AxisDefault, Causality, Channels, Cost, Definition, Flag, FlagKind, Flags, Op, Operator, Precision, Request, Rows,
    TensorSpec, channels,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Slot, Tensor, TensorMap};

const NAME: &str = "conv1d";

/// The largest width.
pub const MAX_WIDTH: usize = 8;

const WEIGHT: TensorSpec = TensorSpec { optional: false, ..TensorSpec::weight("weight", "C W") };
const BIAS: TensorSpec = TensorSpec::weight("bias", "C");

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "causal depthwise convolution of a few taps, with bias and SiLU",
    inputs: &[channels::X, WEIGHT, BIAS],
    outputs: &[channels::Y],
    state: &[TensorSpec::state("state", "B C W-1")],
    axes: &[channels::AXES[0], channels::AXES[1], channels::AXES[2], ("W", AxisDefault::Length(4))],
    flags: &[Flag {
        name: "activation",
        kind: FlagKind::Choice(&["none", "silu"]),
        help: "what the sum goes through (silu)",
    }],
    causal: Causality::Always,
    recurrent: true,
    complexity: "N C W",
    usage,
    configure,
    cases: cases::cases,
};

/// What the sum goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    None,
    /// `u / (1 + e^-u)`.
    Silu,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shape of x and y, and their storage.
    pub shape: Channels,
    /// W: taps of a channel, at most [`MAX_WIDTH`].
    pub width: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// What the sum goes through.
    pub activation: Activation,
    /// Whether the state is read before and written after.
    pub carry: bool,
    /// The one-token form: needs N = 1 and `carry`.
    pub decode: bool,
}

impl Config {
    /// SiLU, without a bias and a carried state.
    pub fn new(shape: Channels, width: usize) -> Self {
        Self { shape, width, bias: false, activation: Activation::Silu, carry: false, decode: false }
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.shape.validate(NAME)?;
        if self.width == 0 || self.width > MAX_WIDTH {
            let found = self.width.to_string();
            return Err(Error::tensor(NAME, "weight", format!("a width W of 1 to {MAX_WIDTH}"), found));
        }
        self.shape.check_walk(NAME, self.carry, self.decode, None)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: `weight [C, W]` and, if there is one, `bias [C]`.
    pub fn weights_slot(&self) -> Slot {
        let channels = self.shape.channels;
        let mut parts = vec![("weight", [channels, self.width].into())];
        if self.bias {
            parts.push(("bias", [channels].into()));
        }
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The state, `[B, C, W - 1]`; none unless it is carried, nor for a width of 1.
    pub fn state_slot(&self) -> Option<Slot> {
        let shape = [self.shape.batch, self.shape.channels, self.width.saturating_sub(1)];
        (self.carry && self.width > 1).then(|| Slot::plain("state", Access::Update, DType::F32, shape))
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let mut slots =
            vec![self.shape.slot("x", Access::Read), self.weights_slot(), self.shape.slot("y", Access::Write)];
        slots.extend(self.state_slot());
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
    /// Weight and bias in one buffer: see [`Config::weights_slot`].
    pub weights: &'a Tensor,
    /// `[B, C, N]`, written.
    pub y: &'a Tensor,
    /// `[B, C, W - 1]`, f32; given if and only if there is a [`Config::state_slot`].
    pub state: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let mut named = vec![("x", tensors.x), ("weights", tensors.weights), ("y", tensors.y)];
    named.extend(tensors.state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

fn usage(flags: &Flags) -> Result<(), Error> {
    flags.count(NAME, "segment")?;
    match flags.word("activation") {
        None | Some("none" | "silu") => {}
        Some(word) => {
            return Err(Error::Usage(format!("{NAME}: --activation: expected none or silu, found `{word}`")));
        }
    }
    super::check_decode_flags(NAME, flags)
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let shape = Channels::of(&OP, request)?;
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
        carry: request.carry,
        decode: flags.switch("decode").unwrap_or(false),
        ..Config::new(shape, weight.dims()[1])
    };
    config.validate()?;
    Ok(Box::new(config))
}
