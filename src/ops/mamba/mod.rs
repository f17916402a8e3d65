//! Mamba's selective scan: every channel is a recurrence over a few states. Its step, input and output coefficients are
//! given for every token.
//!
//! For every batch entry and channel ch, which uses group g = ch / (C / G) of b and c:
//!
//! ```text
//! dt_t   = softplus(dt[ch,t] + dt_bias[ch])                                  or without softplus, dt + dt_bias
//! dt_t   = clamp(dt_t + dt_offset, dt_min, dt_max)                           where these are given
//! h_t[s] = exp(dt_t a[ch,s]) h_{t-1}[s] + dt_t b[g,s,t] x[ch,t]              a = -exp(a_log) where that is given
//! y_t    = sum_s c[g,s,t] h_t[s] + d[ch] x[ch,t]
//! y_t    = y_t z[ch,t] / (1 + exp(-z[ch,t]))                                 where there is z
//! ```
//!
//! a is discretised exactly and b by Euler's rule, as in the released code. Sources: Gu and Dao, "Mamba: Linear-time
//! sequence modeling with selective state spaces" (arXiv 2312.00752), section 3; code state-spaces/mamba.
//!
//! A segment of tokens changes a state by `h -> exp(a sum dt) h + own`. It is described by `own`, which is the result
//! for a zero state, and by one number per channel for the decay of an earlier state. Segments are therefore processed
//! in parallel, these pairs are combined from the left, and a second pass over x, dt and b starts from the combined
//! states. Nothing of size N x C x S is stored.
//!
//! b and c may be constant instead, one vector per channel for all tokens: then they are `[C, S]`, among the weights.
//!
//! The state decays only if a is below 0 and dt is not below 0; with an a of 0 it sums. `subquad run` refuses an a above 0; this
//! library accepts it.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod reference;
#[cfg(feature = "catalog")]
mod row;
mod summary;
mod tiles;

use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::check_memory;
use crate::operator::channels::Channels;
use crate::operator::mode::Mode;
use crate::operator::steps::Steps;
use crate::operator::{Algorithm, Configured, LogDecayFn, StateBasis, tensors, weights};
use crate::tensor::{Access, DType, Shape, Slot};

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "mamba";

/// The largest number of states per channel.
pub const MAX_STATES: usize = 256;

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shape of x, dt, z and y, and the storage type of these and of b and c.
    pub shape: Channels,
    /// S: states per channel, at most [`MAX_STATES`].
    pub states: usize,
    /// G: groups, which must divide C; b and c are then `[B, G, S, N]`. `None`: b and c are `[B, S, N]`, and all
    /// channels share them.
    pub groups: Option<usize>,
    /// Whether b is constant along the sequence: `[C, S]` among the weights.
    pub constant_b: bool,
    /// Whether c is.
    pub constant_c: bool,
    /// Whether the tensor is `a_log`, the logarithm of -a, instead of `a`.
    pub a_log: bool,
    /// Whether the tensor `d` is given.
    pub d: bool,
    /// Whether the tensor `z` is given.
    pub z: bool,
    /// Whether the tensor `dt_bias` is given.
    pub dt_bias: bool,
    /// How a step follows from dt.
    pub steps: Steps,
    /// How it runs along the sequence.
    pub mode: Mode,
}

impl Config {
    /// No axis for groups, the tensor `a`, with softplus; without d, z, dt_bias and a carried state.
    pub fn new(shape: Channels, states: usize) -> Self {
        Self {
            shape,
            states,
            groups: None,
            constant_b: false,
            constant_c: false,
            a_log: false,
            d: false,
            z: false,
            dt_bias: false,
            steps: Steps::new(),
            mode: Mode::new(),
        }
    }

    /// Number of groups: G, or 1 without an axis for groups.
    pub fn group_count(&self) -> usize {
        self.groups.unwrap_or(1)
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
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
        self.mode.check_all(NAME, "x", self.shape.batch, [self.shape.length; 2])?;
        self.steps.validate(NAME)?;
        self.mode.check_one_form(NAME)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: `a [C, S]` or `a_log [C, S]`, then `d [C]`, `dt_bias [C]`, and constant `b [C, S]` and `c [C, S]`
    /// if the configuration has them.
    pub fn weights_slot(&self) -> Slot {
        let channels = self.shape.channels;
        let a = if self.a_log { "a_log" } else { "a" };
        let mut parts = vec![(a, [channels, self.states].into())];
        parts.extend(self.d.then(|| ("d", [channels].into())));
        parts.extend(self.dt_bias.then(|| ("dt_bias", [channels].into())));
        parts.extend(self.constant_b.then(|| ("b", [channels, self.states].into())));
        parts.extend(self.constant_c.then(|| ("c", [channels, self.states].into())));
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The state, `[B, C, S]`. B is the number of packed sequences if there are such.
    pub fn state_slot(&self) -> Slot {
        let shape = [self.mode.states(self.shape.batch), self.shape.channels, self.states];
        Slot::plain("state", Access::Update, DType::F32, shape)
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let (batch, length) = (self.shape.batch, self.shape.length);
        let along = |name| {
            let shape: Shape = match self.groups {
                Some(groups) => [batch, groups, self.states, length].into(),
                None => [batch, self.states, length].into(),
            };
            let axis = shape.rank() - 1;
            Slot::plain(name, Access::Read, self.shape.dtype, shape).along(axis)
        };
        let mut slots = vec![self.shape.slot("x", Access::Read), self.shape.slot("dt", Access::Read)];
        slots.extend((!self.constant_b).then(|| along("b")));
        slots.extend((!self.constant_c).then(|| along("c")));
        slots.push(self.weights_slot());
        slots.push(self.shape.slot("y", Access::Write));
        slots.extend(self.z.then(|| self.shape.slot("z", Access::Read)));
        slots.extend(self.mode.borders_slot());
        slots.extend(self.mode.carry.then(|| self.state_slot()));
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
        cpu: crate::operator::CpuBackend::new(cpu::run, |_| cpu::variant()).in_place(cpu::update).in_every_direction(),
    };

    fn log_decay(&self) -> Result<LogDecayFn<Self>, Error> {
        Ok(summary::log_decay)
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn plain(&self, length: usize, dtype: DType) -> Self {
        Self { shape: self.shape.length(length).dtype(dtype), mode: self.mode.plain(), ..self.clone() }
    }

    fn state_basis(&self) -> StateBasis {
        StateBasis { settings: self.mode.state_basis().into_iter().collect(), weights: &[] }
    }

    fn state_elements(&self) -> u64 {
        self.state_slot().checked_count().unwrap_or(u64::MAX)
    }
}

tensors! {
    /// Tensors on the GPU, with the shapes of the module's formula.
    required {
        /// `[B, C, N]`.
        x,
        /// `[B, C, N]`.
        dt,
        /// The packed weights in one buffer: see [`Config::weights_slot`].
        weights,
        /// `[B, C, N]`, written.
        y,
    }
    optional {
        /// `[B, G, S, N]`, or `[B, S, N]` without [`Config::groups`]; refused if [`Config::constant_b`], otherwise required.
        b,
        /// The same shape as `b`; refused if [`Config::constant_c`], otherwise required.
        c,
        /// `[B, C, N]`; required if [`Config::z`], otherwise refused.
        z,
        /// Borders of packed sequences, `[S+1]` in u32; required if `mode.sequences` is set, otherwise refused.
        cu_seqlens,
        /// `[B, C, S]`, f32, updated in place; required if `mode.carry`, otherwise refused.
        state,
    }
}

weights! { "weights":
    /// `[C, S]`; replaced by `a_log` if [`Config::a_log`] is set.
    a,
    /// `[C, S]`.
    a_log,
    /// `[C]`, the skip; required if [`Config::d`], otherwise refused.
    d,
    /// `[C]`; required if [`Config::dt_bias`], otherwise refused.
    dt_bias,
    /// `[C, S]`; required if [`Config::constant_b`], otherwise refused.
    b,
    /// `[C, S]`; required if [`Config::constant_c`], otherwise refused.
    c,
}
