//! Causal depthwise convolution, as in front of a selective scan: each channel has its own few taps.
//!
//! ```text
//! y[b,c,n] = act(bias[c] + sum_w weight[c,w] x[b,c, n - W + 1 + w])        w from 0 to W - 1
//! ```
//!
//! The inputs before the first token are zeros or the carried state. `act` is SiLU, `u / (1 + e^-u)`, or the identity.
//! The state holds the last W - 1 inputs, oldest first (none for W = 1). Sources: Gu and Dao, "Mamba" (arXiv
//! 2312.00752), figure 3; code Dao-AILab/causal-conv1d.
//!
//! An output is always the sum of the same numbers in the same order. Processing a sequence in chunks therefore gives
//! bit-identical results, whatever the chunks are. `--segment` is accepted, as by every recurrent operator, and has no
//! effect.
//!
//! Cost: `2 W` flops per token and channel. x is read once, plus W - 1 of its inputs per tile of tokens. No workspace.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod reference;
#[cfg(feature = "catalog")]
mod row;

use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::check_memory;
use crate::operator::channels::Channels;
use crate::operator::mode::Mode;
use crate::operator::{Algorithm, Configured, tensors, weights};
use crate::tensor::{Access, DType, Slot};

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "conv1d";

/// The largest width.
pub const MAX_WIDTH: usize = 8;

/// The function applied to the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// The identity.
    None,
    /// `u / (1 + e^-u)`.
    Silu,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shape of x and y, and their storage type.
    pub shape: Channels,
    /// W: taps per channel, at most [`MAX_WIDTH`].
    pub width: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// The function applied to the sum.
    pub activation: Activation,
    /// How it runs along the sequence.
    pub mode: Mode,
}

impl Config {
    /// SiLU, without a bias and a carried state.
    pub fn new(shape: Channels, width: usize) -> Self {
        Self { shape, width, bias: false, activation: Activation::Silu, mode: Mode::new() }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.shape.validate(NAME)?;
        if self.width == 0 || self.width > MAX_WIDTH {
            let found = self.width.to_string();
            return Err(Error::tensor(NAME, "weight", format!("a width W of 1 to {MAX_WIDTH}"), found));
        }
        self.mode.check(NAME, "x", self.shape.length, self.shape.length)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: `weight [C, W]` and, if there is a bias, `bias [C]`.
    pub fn weights_slot(&self) -> Slot {
        let channels = self.shape.channels;
        let mut parts = vec![("weight", [channels, self.width].into())];
        if self.bias {
            parts.push(("bias", [channels].into()));
        }
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The state, `[B, C, W - 1]`; `None` if it is not carried or W is 1.
    pub fn state_slot(&self) -> Option<Slot> {
        let shape = [self.shape.batch, self.shape.channels, self.width.saturating_sub(1)];
        (self.mode.carry && self.width > 1).then(|| Slot::plain("state", Access::Update, DType::F32, shape))
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots =
            vec![self.shape.slot("x", Access::Read), self.weights_slot(), self.shape.slot("y", Access::Write)];
        slots.extend(self.state_slot());
        slots
    }
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: layout::essential,
        program: layout::program,
        reference: [reference::outputs::<f32>, reference::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend { run: cpu::run, variant: |_| cpu::variant() },
    };
}

tensors! {
    /// Tensors on the GPU, with the shapes of the module's formula.
    required {
        /// `[B, C, N]`.
        x,
        /// The packed weights in one buffer: see [`Config::weights_slot`].
        weights,
        /// `[B, C, N]`, written.
        y,
    }
    optional {
        /// `[B, C, W - 1]`, f32, updated in place; required if [`Config::state_slot`] is not `None`, otherwise refused.
        state,
    }
}

weights! { "weights":
    /// `[C, W]`.
    weight,
    /// `[C]`; required if [`Config::bias`], otherwise refused.
    bias,
}
