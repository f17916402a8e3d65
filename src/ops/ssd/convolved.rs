//! One token of [`ssd`](super) with the convolution in front of it, in one dispatch: x, b and c go through a short causal
//! convolution and SiLU, then the state takes its step.
//!
//! ```text
//! [x, b, c]_n = act(bias + sum_w weight[.,w] xbc[., n - W + 1 + w])            columns of xbc: x, then b, then c
//! ```
//!
//! The rest is as without it. `conv_state` is the state of [`conv1d`](crate::ops::conv1d) over the columns of xbc, so that
//! a prompt runs as conv1d and ssd, and the tokens after it as this, over the same two states. Convolved values are not
//! rounded to f16 in between. xbc is contiguous.
//!
//! Every workgroup convolves the b and c that it reads, which are those of its group. The last workgroup of a group to load
//! their inputs keeps them.

use super::{Config as Plain, NAME, layout, reference};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::check_memory;
use crate::operator::mode::Mode;
use crate::operator::short_conv::ShortConv;
use crate::operator::{Algorithm, Configured, StateBasis, tensors, weights};
use crate::tensor::{Access, DType, Part, Slot};

/// The slot of y in [`Config::slots`].
pub(super) const Y: usize = 1;

/// Shape and settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The step. It decodes a token: its mode has [`Mode::decode`].
    pub step: Plain,
    /// The convolution over the columns of xbc.
    pub conv: ShortConv,
}

impl Config {
    /// A step of these shapes and settings, set to decode one token, behind a convolution of so many taps with SiLU.
    pub fn new(step: Plain, width: usize) -> Self {
        let step = Plain { length: 1, mode: step.mode.decode(), ..step };
        Self { step, conv: ShortConv::new(width) }
    }

    /// C: columns of xbc, `H P + 2 G S`.
    pub fn channels(&self) -> usize {
        let Plain { heads, dim, groups, states, .. } = self.step;
        heads.saturating_mul(dim).saturating_add(groups.saturating_mul(states).saturating_mul(2))
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.step.validate()?;
        self.conv.validate(NAME)?;
        if !self.step.mode.decode {
            return Err(Error::rule(
                NAME,
                "conv_weight",
                " needs --decode: in front of more than one token, run conv1d",
            ));
        }
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: those of [`Config::step`](super::Config::weights_slot), then `conv_weight [C, W]` and, if there
    /// is a bias, `conv_bias [C]`.
    pub fn weights_slot(&self) -> Slot {
        let mut parts = self.step.weights();
        parts.extend(self.conv.weights(self.channels()));
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The state of the convolution, `[B, C, W - 1]`; `None` if W is 1.
    pub fn conv_state_slot(&self) -> Option<Slot> {
        self.conv.state_slot(self.step.batch, self.channels())
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let columns = |name| self.step.slots().into_iter().find(|slot| slot.name == name).map(|slot| slot.parts);
        let parts: Vec<Part> = ["x", "b", "c"].into_iter().filter_map(columns).flatten().collect();
        let mut slots = vec![pack::columns("xbc", Access::Read, self.step.dtype, parts)];
        let rest = self.step.slots().into_iter().filter(|slot| !["x", "b", "c"].contains(&slot.name));
        slots.extend(rest.map(|slot| if slot.name == "weights" { self.weights_slot() } else { slot }));
        slots.extend(self.conv_state_slot());
        slots
    }
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: layout::essential_convolved,
        program: layout::program_convolved,
        reference: [reference::convolved::<f32>, reference::convolved::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(super::cpu::run_convolved, super::cpu::variant_convolved)
            .in_place(super::cpu::update_convolved),
    };

    fn mode(&self) -> Mode {
        self.step.mode
    }

    fn plain(&self, length: usize, dtype: DType) -> Self {
        Self { step: self.step.plain(length, dtype), ..self.clone() }
    }

    fn state_basis(&self) -> StateBasis {
        Configured::state_basis(&self.step)
    }

    fn state_elements(&self) -> u64 {
        let kept = self.conv_state_slot().map_or(0, |slot| slot.checked_count().unwrap_or(u64::MAX));
        Configured::state_elements(&self.step).saturating_add(kept)
    }
}

tensors! {
    /// Tensors on the GPU, with the shapes of the module's formula.
    required {
        /// `[B C]` elements, packed: the rows `[B, 1, C]` of the projection.
        xbc,
        /// `[B, 1, H]`.
        dt,
        /// The packed weights in one buffer: see [`Config::weights_slot`].
        weights,
        /// `[B, 1, H, P]`, written.
        y,
        /// `[B, H, P, S]`, updated in place.
        state,
    }
    optional {
        /// `[B, 1, H, P]`; required if the step has a gate, otherwise refused.
        z,
        /// `[B, C, W - 1]`, f32, updated in place; required if [`Config::conv_state_slot`] is not `None`, otherwise
        /// refused.
        conv_state,
    }
}

weights! { "weights":
    /// `[H]`; replaced by `a_log` if the step has that.
    a,
    /// `[H]`.
    a_log,
    /// `[H]` or `[H, P]`, the skip; required if the step has one, otherwise refused.
    d,
    /// `[H]`; required if the step has a bias, otherwise refused.
    dt_bias,
    /// `[C, W]`.
    conv_weight,
    /// `[C]`; required if the convolution has a bias, otherwise refused.
    conv_bias,
}
