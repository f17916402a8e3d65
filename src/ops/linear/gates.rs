//! The tensors that say how much of the state decays and how strongly a token corrects it, in the forms in which models store
//! them.
//!
//! ```text
//! g [B, V, N] or [B, V, N, D']                                                     one log decay per token
//! g [V]                                                                            one log decay for all tokens
//! g = -exp(a_log) softplus(a + dt_bias)    a [B, V, N], a_log [V], dt_bias [V]     computed, as in Gated DeltaNet
//! beta [B, V, N], or [B, 1, N] for all heads, or the sigmoid of either
//! ```

use super::{Config, Gate, NAME};
use crate::error::Error;
use crate::gpu::pack;
use crate::operator::qkv::Qkv;
use crate::tensor::{Access, DType, Shape, Slot};

/// How the log decays of a rule that decays are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Decays {
    /// The tensor `g` has them for every token.
    #[default]
    PerToken,
    /// The tensor `g [V]` has one per head, for all tokens.
    Constant,
    /// They are `-exp(a_log) softplus(a + dt_bias)` of the tensors `a [B, V, N]`, `a_log [V]` and `dt_bias [V]`.
    Computed {
        /// Whether `dt_bias` is given.
        dt_bias: bool,
    },
}

impl Config {
    /// The slot of log decays: `g [B, V, N]`, `[B, V, N, D']` or `[V]`, or `a [B, V, N]` from which they are computed, in
    /// the layout of the configuration; `None` for a rule without decay. V is G unless v has more heads than k.
    pub fn gate_slot(&self) -> Option<Slot> {
        let Qkv { batch, kv_heads, keys, dtype, layout, .. } = self.qkv;
        let gate = self.rule.gate()?;
        let whole = layout.shape(batch, kv_heads, keys, self.width());
        let shape = Shape::from(&whole.dims()[..if gate == Gate::Head { 3 } else { 4 }]);
        let along = |name| Slot::plain(name, Access::Read, dtype, shape).along(layout.token_axis());
        Some(match self.decays {
            Decays::PerToken => along("g"),
            Decays::Constant => Slot::plain("g", Access::Read, dtype, [kv_heads]),
            Decays::Computed { .. } => along("a"),
        })
    }

    /// The packed weights of computed log decays, `a_log [V]` and, if it is given, `dt_bias [V]`.
    pub fn gate_weights_slot(&self) -> Option<Slot> {
        let Decays::Computed { dt_bias } = self.decays else { return None };
        let mut parts = vec![("a_log", [self.qkv.kv_heads].into())];
        parts.extend(dt_bias.then(|| ("dt_bias", [self.qkv.kv_heads].into())));
        Some(pack::slot("gate_weights", Access::Read, DType::F32, &parts))
    }

    /// The slot of strengths beta, `[B, V, N]` or `[B, 1, N]` in the layout of the configuration; `None` unless the rule
    /// is a delta rule.
    pub fn beta_slot(&self) -> Option<Slot> {
        let Qkv { batch, kv_heads, keys, dtype, layout, .. } = self.qkv;
        let heads = if self.beta_for_all_heads { 1 } else { kv_heads };
        let shape = Shape::from(&layout.shape(batch, heads, keys, 1).dims()[..3]);
        let slot = || Slot::plain("beta", Access::Read, dtype, shape).along(layout.token_axis());
        self.rule.is_delta().then(slot)
    }

    /// Number of log decays per token and key head.
    pub(super) fn gates_each(&self) -> usize {
        match self.rule.gate() {
            None => 0,
            Some(Gate::Head) => 1,
            Some(Gate::Channel) => self.width(),
        }
    }

    /// Refuses forms of the tensors that the rule does not read.
    pub(super) fn validate_gates(&self) -> Result<(), Error> {
        if self.decays != Decays::PerToken && self.rule.gate() != Some(Gate::Head) {
            return Err(Error::rule(NAME, "decays", " needs a rule with one log decay per head"));
        }
        for (setting, on) in [("beta_sigmoid", self.beta_sigmoid), ("beta_for_all_heads", self.beta_for_all_heads)] {
            if on && !self.rule.is_delta() {
                return Err(Error::rule(NAME, setting, " needs rule delta or gated-delta, which read beta"));
            }
        }
        Ok(())
    }
}
