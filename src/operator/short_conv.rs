//! The short convolution in front of a recurrence: what decoding one token needs of it, where it runs in the dispatch of
//! the recurrence's step.

use crate::error::Error;
use crate::tensor::{Access, DType, Shape, Slot};

/// The largest width.
pub const MAX_WIDTH: usize = 32;

/// A causal depthwise convolution, `y[c] = act(bias[c] + sum_w weight[c,w] x[c, n - W + 1 + w])` (Gu and Dao, "Mamba",
/// arXiv 2312.00752, figure 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortConv {
    /// W: taps per channel, at most [`MAX_WIDTH`].
    pub width: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether SiLU follows the sum.
    pub silu: bool,
}

impl ShortConv {
    /// So many taps, with SiLU and without a bias.
    pub const fn new(width: usize) -> Self {
        Self { width, bias: false, silu: true }
    }

    /// W - 1: inputs per channel in the state.
    pub(crate) fn span(&self) -> usize {
        self.width.saturating_sub(1)
    }

    /// Refuses a width that is 0 or too large.
    ///
    /// # Errors
    /// [`Error::Tensor`].
    pub(crate) fn validate(&self, op: &'static str) -> Result<(), Error> {
        if self.width == 0 || self.width > MAX_WIDTH {
            let found = self.width.to_string();
            return Err(Error::tensor(op, "conv_weight", format!("a width W of 1 to {MAX_WIDTH}"), found));
        }
        Ok(())
    }

    /// The weights: `conv_weight [C, W]` and, if there is a bias, `conv_bias [C]`.
    pub(crate) fn weights(&self, channels: usize) -> Vec<(&'static str, Shape)> {
        let mut parts = vec![("conv_weight", [channels, self.width].into())];
        parts.extend(self.bias.then(|| ("conv_bias", [channels].into())));
        parts
    }

    /// The state, `conv_state [B, C, W - 1]`: the last inputs, oldest first. `None` if W is 1.
    pub(crate) fn state_slot(&self, batch: usize, channels: usize) -> Option<Slot> {
        let shape = [batch, channels, self.span()];
        (self.width > 1).then(|| Slot::plain("conv_state", Access::Update, DType::F32, shape))
    }
}
