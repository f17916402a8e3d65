//! Mamba-2's recurrence in its state-space dual form: linear attention with one decay per head. The step that
//! determines the decay also scales what is written.
//!
//! For every batch entry and head h, which uses group g = h / (H / G) of b and c:
//!
//! ```text
//! dt_t = softplus(dt[t,h] + dt_bias[h])                                  or without softplus, dt + dt_bias
//! dt_t = clamp(dt_t + dt_offset, dt_min, dt_max)                         where these are given
//! S_t  = exp(dt_t a[h]) S_{t-1} + dt_t x[t,h] b[t,g]^T     [P, S]        a = -exp(a_log) where that is given
//! y_t  = S_t c[t,g] + d[h] x[t,h]                          [P]           d is one number per head, or P
//! y_t  = y_t z[t,h] / (1 + exp(-z[t,h]))                                 where there is z
//! ```
//!
//! This is rule `gated` of [`linear`](super::linear) with q = c, k = b, v = dt x and g = dt a, and uses the same
//! recurrence core. Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), sections 5 and 6; code
//! state-spaces/mamba. The norm that follows in the Mamba-2 block is not included.
//!
//! The state decays only if a is below 0 and dt is above 0; with an a of 0 it sums. `subquad run` refuses an a above 0; this
//! library accepts it.
//!
//! [`convolved`] decodes a token with the convolution in front of it in one dispatch.
//!
//! x, b and c may be strided tensors ([`Tensor::strided`](crate::tensor::Tensor::strided)), and so may y where there is no z.

#[cfg(feature = "catalog")]
mod cases;
pub mod convolved;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod reference;
#[cfg(feature = "catalog")]
mod row;
mod summary;

use crate::error::Error;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, pack};
use crate::operator::mode::Mode;
use crate::operator::qkv::Qkv;
use crate::operator::steps::Steps;
use crate::operator::{Algorithm, Configured, LogDecayFn, StateBasis, tensors, weights};
use crate::tensor::{Access, DType, Layout, Shape, Slot};

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "ssd";

/// The largest number of states S.
pub const MAX_STATES: usize = 256;

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// B: batch.
    pub batch: usize,
    /// N: tokens.
    pub length: usize,
    /// H: heads.
    pub heads: usize,
    /// P: channels per head.
    pub dim: usize,
    /// G: groups of b and c. It must divide H.
    pub groups: usize,
    /// S: states per channel, at most [`MAX_STATES`].
    pub states: usize,
    /// Storage type of x, dt, b, c, z and y: f32 or f16.
    pub dtype: DType,
    /// Whether the tensor is `a_log`, the logarithm of -a, instead of `a`.
    pub a_log: bool,
    /// Whether the tensor `d` is given.
    pub d: bool,
    /// Whether the tensor `d` is `[H, P]` instead of `[H]`.
    pub d_per_channel: bool,
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
    /// One batch entry and one group, f32, the tensor `a`, with softplus; without d, z, dt_bias and a carried state.
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
            d_per_channel: false,
            z: false,
            dt_bias: false,
            steps: Steps::new(),
            mode: Mode::new(),
        }
    }

    /// The shapes as linear attention has them, with a separate state for each head. Heads share b and c.
    fn qkv(&self) -> Qkv {
        let qkv = Qkv::new().batch(self.batch).heads(self.heads).len(self.length).dim(self.states).dim_v(self.dim);
        qkv.dtype(self.dtype).layout(Layout::Bnhd).shared(self.heads / self.groups.max(1))
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
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
        if self.mode.decode && self.length != 1 {
            return Err(Error::tensor(NAME, "x", "N = 1 to decode", format!("N = {}", self.length)));
        }
        self.mode.check_all(NAME, "x", self.batch, [self.length, self.length])?;
        self.steps.validate(NAME)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: `a [H]` or `a_log [H]`, then `d [H]` or `[H, P]` and `dt_bias [H]` if the configuration has them.
    pub fn weights_slot(&self) -> Slot {
        pack::slot("weights", Access::Read, DType::F32, &self.weights())
    }

    fn weights(&self) -> Vec<(&'static str, Shape)> {
        let mut parts = vec![(if self.a_log { "a_log" } else { "a" }, [self.heads].into())];
        let skip = || if self.d_per_channel { [self.heads, self.dim].into() } else { [self.heads].into() };
        parts.extend(self.d.then(|| ("d", skip())));
        parts.extend(self.dt_bias.then(|| ("dt_bias", [self.heads].into())));
        parts
    }

    /// The state, `[B, H, P, S]`, or `[B, H, S, P]` in the state layout `ed`. B is the number of packed sequences if there
    /// are such.
    pub fn state_slot(&self) -> Slot {
        let [rows, columns] = self.mode.state_layout.order([self.dim, self.states]);
        let shape = [self.mode.states(self.batch), self.heads, rows, columns];
        Slot::plain("state", Access::Update, DType::F32, shape)
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let (b, n) = (self.batch, self.length);
        let slot = |name, access, shape: Shape| Slot::plain(name, access, self.dtype, shape).along(1);
        let x = || Shape::from([b, n, self.heads, self.dim]);
        let shared = || Shape::from([b, n, self.groups, self.states]);
        // The recurrence core expects queries, keys, values and the output as slots 0 to 3.
        let mut slots = vec![
            slot("c", Access::Read, shared()),
            slot("b", Access::Read, shared()),
            slot("x", Access::Read, x()),
            slot("y", Access::Write, x()),
            slot("dt", Access::Read, [b, n, self.heads].into()),
            self.weights_slot(),
        ];
        slots.extend(self.z.then(|| slot("z", Access::Read, x())));
        slots.extend(self.mode.borders_slot());
        slots.extend(self.mode.carry.then(|| self.state_slot()));
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        layout::program(self, caps)
    }
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: layout::essential,
        program: Self::program,
        reference: [reference::outputs::<f32>, reference::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(cpu::run, cpu::variant).in_place(cpu::update),
    };

    fn log_decay(&self) -> Result<LogDecayFn<Self>, Error> {
        Ok(summary::log_decay)
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn plain(&self, length: usize, dtype: DType) -> Self {
        Self { length, dtype, mode: self.mode.plain(), ..self.clone() }
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
        /// `[B, N, H, P]`.
        x,
        /// `[B, N, H]`.
        dt,
        /// The packed weights in one buffer: see [`Config::weights_slot`].
        weights,
        /// `[B, N, G, S]`.
        b,
        /// `[B, N, G, S]`.
        c,
        /// `[B, N, H, P]`, written.
        y,
    }
    optional {
        /// `[B, N, H, P]`; required if [`Config::z`], otherwise refused.
        z,
        /// Borders of packed sequences, `[S+1]` in u32; required if `mode.sequences` is set, otherwise refused.
        cu_seqlens,
        /// `[B, H, P, S]`, updated in place; required if `mode.carry`, otherwise refused.
        state,
    }
}

weights! { "weights":
    /// `[H]`; replaced by `a_log` if [`Config::a_log`] is set.
    a,
    /// `[H]`.
    a_log,
    /// `[H]` or `[H, P]`, the skip; required if [`Config::d`], otherwise refused.
    d,
    /// `[H]`; required if [`Config::dt_bias`], otherwise refused.
    dt_bias,
}
