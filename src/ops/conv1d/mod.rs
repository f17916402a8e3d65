//! Depthwise convolution, as in front of a selective scan: each channel has its own few taps.
//!
//! ```text
//! y[b,c,n] = act(bias[c] + sum_w weight[c,w] x[b,c, n - L + w K])        w from 0 to W - 1
//! ```
//!
//! K is the dilation, 1 unless set. With causal padding L = (W - 1) K, so that the last tap reads the token itself. With
//! padding `same` L is half of it, rounded down, as in torch and JAX; outputs then depend on later inputs. Inputs past the
//! ends of a sequence are zeros, or before the first token those of the carried state: the last (W - 1) K inputs, oldest first
//! (none for W = 1). `act` is SiLU, `u / (1 + e^-u)`, or the identity. Sources: Gu and Dao, "Mamba" (arXiv 2312.00752),
//! figure 3; code Dao-AILab/causal-conv1d; dilation as in van den Oord et al., "WaveNet" (arXiv 1609.03499), section 2.1.
//!
//! An output is always the sum of the same numbers in the same order. Processing a sequence in chunks therefore gives
//! bit-identical results, whatever the chunks are. `--segment` is accepted, as by every recurrent operator, and has no
//! effect.
//!
//! Cost: `2 W` flops per token and channel. On a GPU eight outputs share the inputs that they load; what neighbours load again
//! comes from a cache. No workspace.

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
use crate::operator::short_conv;
use crate::operator::{Algorithm, Configured, tensors, weights};
use crate::tensor::{Access, DType, Slot};

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "conv1d";

/// The largest width.
pub const MAX_WIDTH: usize = short_conv::MAX_WIDTH;

/// The most tokens from the first tap to the last.
const MAX_SPAN: usize = 1 << 30;

/// The function applied to the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// The identity.
    None,
    /// `u / (1 + e^-u)`.
    Silu,
}

/// Where the inputs of an output lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Padding {
    /// Up to the token of the output: zeros or the state stand before the first token.
    #[default]
    Causal,
    /// Around the token of the output, with half of the zeros on either side, and the odd one on the right. No state.
    Same,
}

/// The order of the axes of x and y.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ChannelLayout {
    /// `[B, C, N]`.
    #[default]
    Bcn,
    /// `[B, N, C]`.
    Bnc,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shape of x and y, and their storage type.
    pub shape: Channels,
    /// W: taps per channel, at most [`MAX_WIDTH`].
    pub width: usize,
    /// Whether the weight has the shape `[C, 1, W]` on the host and in files, as in torch. Its elements are the same.
    pub weight_of_rank_3: bool,
    /// Whether there is a bias.
    pub bias: bool,
    /// The function applied to the sum.
    pub activation: Activation,
    /// Where the inputs of an output lie.
    pub padding: Padding,
    /// K: tokens from one tap to the next.
    pub dilation: usize,
    /// The order of the axes of x and y.
    pub layout: ChannelLayout,
    /// How it runs along the sequence. There are packed sequences, but no directions.
    pub mode: Mode,
}

impl Config {
    /// SiLU, causal, without a bias and a carried state.
    pub fn new(shape: Channels, width: usize) -> Self {
        Self {
            shape,
            width,
            weight_of_rank_3: false,
            bias: false,
            activation: Activation::Silu,
            padding: Padding::Causal,
            dilation: 1,
            layout: ChannelLayout::Bcn,
            mode: Mode::new(),
        }
    }

    /// (W - 1) K: tokens from the first tap to the last, and inputs per channel in the state.
    pub fn span(&self) -> usize {
        self.width.saturating_sub(1).saturating_mul(self.dilation)
    }

    /// L: how many tokens the input of the first tap lies before the output.
    pub(crate) fn left(&self) -> usize {
        match self.padding {
            Padding::Causal => self.span(),
            Padding::Same => self.span() / 2,
        }
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
        let most = MAX_SPAN / (self.width - 1).max(1);
        if self.dilation == 0 || self.dilation > most {
            let found = self.dilation.to_string();
            return Err(Error::setting(NAME, "dilation", format!("1 to {most} for {} taps", self.width), found));
        }
        if self.padding == Padding::Same && (self.mode.carry || self.mode.decode) {
            let problem = " same cannot be used with a state or decode, because outputs depend on later inputs";
            return Err(Error::rule(NAME, "padding", problem));
        }
        let (batch, length) = (self.shape.batch, self.shape.length);
        Mode { sequences: None, ..self.mode }.check(NAME, "x", length, length)?;
        self.mode.check_all(NAME, "x", batch, [length, length])?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: `weight [C, W]` or `[C, 1, W]` and, if there is a bias, `bias [C]`.
    pub fn weights_slot(&self) -> Slot {
        let channels = self.shape.channels;
        let weight =
            if self.weight_of_rank_3 { [channels, 1, self.width].into() } else { [channels, self.width].into() };
        let mut parts = vec![("weight", weight)];
        if self.bias {
            parts.push(("bias", [channels].into()));
        }
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The state, `[B, C, (W - 1) K]`; `None` if it is not carried or W is 1. B is the number of packed sequences if there
    /// are such.
    pub fn state_slot(&self) -> Option<Slot> {
        let shape = [self.mode.states(self.shape.batch), self.shape.channels, self.span()];
        (self.mode.carry && self.width > 1).then(|| Slot::plain("state", Access::Update, DType::F32, shape))
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let slot = |name, access| match self.layout {
            ChannelLayout::Bcn => self.shape.slot(name, access),
            ChannelLayout::Bnc => self.shape.slot_channels_last(name, access),
        };
        let mut slots = vec![slot("x", Access::Read), self.weights_slot(), slot("y", Access::Write)];
        slots.extend(self.mode.borders_slot());
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
        cpu: crate::operator::CpuBackend::new(cpu::run, cpu::variant).in_place(cpu::update),
    };

    fn mode(&self) -> Mode {
        self.mode
    }

    fn plain(&self, length: usize, dtype: DType) -> Self {
        Self { shape: self.shape.length(length).dtype(dtype), mode: self.mode.plain(), ..self.clone() }
    }

    // The cpu backend holds the inputs before each row, whether or not they are carried.
    fn state_elements(&self) -> u64 {
        let all = [self.shape.batch, self.shape.channels, self.span()];
        all.into_iter().fold(1, |count, axis| count.saturating_mul(axis as u64))
    }
}

tensors! {
    /// Tensors on the GPU, with the shapes of the module's formula.
    required {
        /// `[B, C, N]`, or `[B, N, C]` if so set.
        x,
        /// The packed weights in one buffer: see [`Config::weights_slot`].
        weights,
        /// `[B, C, N]`, or `[B, N, C]` if so set, written.
        y,
    }
    optional {
        /// Borders of packed sequences, `[S+1]` in u32; required if `mode.sequences` is set, otherwise refused.
        cu_seqlens,
        /// `[B, C, (W - 1) K]`, f32, updated in place; required if [`Config::state_slot`] is not `None`, otherwise refused.
        state,
    }
}

weights! { "weights":
    /// `[C, W]`, or `[C, 1, W]`.
    weight,
    /// `[C]`; required if [`Config::bias`], otherwise refused.
    bias,
}
