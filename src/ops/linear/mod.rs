//! Linear attention: key features and values are summed into a state `S`, which query features read.
//!
//! For every batch entry and query head `h`, which reads key head `g = h / (H / G)`, with the [feature map](FeatureMap)
//! `phi`:
//!
//! ```text
//! S_t = diag(exp g_t) S_{t-1} + phi(k_t) v_t^T     [D', E]
//! z_t = diag(exp g_t) z_{t-1} + phi(k_t)           [D']       (when normalised)
//! o_t = scale * S_t^T phi(q_t)                     (not normalised)
//! o_t = scale * S_t^T phi(q_t) / (scale * z_t . phi(q_t) + norm_eps)
//! ```
//!
//! Rule `linear` has no g. Under rule `gated`, g is a log decay of 0 or less, one per key head or one per channel of
//! phi(k). RetNet, GLA, simple GLA and Mamba-2's matrix form are of this kind. A log decay of minus infinity clears the
//! state.
//!
//! Under the delta rules, each write corrects the value that the state currently returns for its key. `S'` is the state
//! before the write, which `gated-delta` has already decayed by g:
//!
//! ```text
//! S_t = S' + beta_t k_t (v_t - S'^T k_t)^T         [D, E]
//! ```
//!
//! beta is one number per token and key head, of any size: 1 replaces the value of a key of unit length, 0 writes
//! nothing, 2 reflects. The delta rules use q and k directly, without a feature map or a normaliser. Sources: DeltaNet
//! (arXiv 2406.06484), Gated DeltaNet (arXiv 2412.06464) and, with a decay per channel, Kimi Delta Attention (arXiv
//! 2510.26692). They are the update rules `delta` and `gated_delta` of ONNX LinearAttention.
//!
//! Models store gates in other forms too: see [`Decays`] for g, [`Config::beta_sigmoid`] for beta. [`Config::l2norm`]
//! divides q and k by their lengths first. v may have more heads than q and k ([`Qkv::shared`]); g, beta, o and the state
//! then have as many as v.
//!
//! Each token reads the state after its own write, so it attends to itself. Without the causal mask, every query reads
//! the last state. Source: Katharopoulos et al., "Transformers are RNNs" (arXiv 2006.16236), equations 9 to 12, with
//! `phi(x) = elu(x) + 1` (equation 7). For feature map `identity` without a normaliser, the rules `linear` and `gated`
//! are the update rules of the same names in ONNX LinearAttention, whose state layout is the same.
//!
//! q, k, v and o may be strided tensors ([`Tensor::strided`](crate::tensor::Tensor::strided)).
//!
//! Cost: `4 D' E` flops per token and head, `6 D E` under the delta rules, `8 D' E` if two passes are needed, and
//! `2 D F` for random features. State: `D' (E + 1)` floats per key head, `D' E` without a normaliser. D' is the number
//! of features, which is D for maps of single elements.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
#[cfg(feature = "cpu")]
mod cpu_step;
#[doc(hidden)]
pub mod delta;
mod delta_chunks;
#[cfg(feature = "cpu")]
mod delta_cpu;
#[cfg(feature = "cpu")]
mod delta_steps;
mod gates;
mod layout;
mod maps;
mod prepare;
mod reference;
#[cfg(feature = "catalog")]
mod row;
mod summary;

use crate::error::Error;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, pack};
use crate::operator::mode::Mode;
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, LogDecayFn, StateBasis, qkv, tensors, weights};
use crate::tensor::{Access, DType, HostTensor, Part, Slot, TensorMap};

pub use gates::Decays;
pub use maps::FeatureMap;

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "linear";

/// The largest head dimension, of keys and of values.
pub const MAX_DIM: usize = 1024;

/// What is added to the sum of squares of a row of q or k that is divided by its length.
const LENGTH_EPS: f32 = 1e-6;

/// The lowest element of q and k with elu1 if nothing is added to the denominator.
const LOWEST_WITHOUT_EPS: f32 = -40.0;

/// Update rule of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Writes are added to the state.
    Linear,
    /// The state decays by exp(g) before each write.
    Gated(Gate),
    /// Each write corrects the value that the state returns for its key.
    Delta,
    /// The state decays by exp(g), then each write corrects the value that it returns for its key.
    GatedDelta(Gate),
}

impl Rule {
    /// The value of `--rule`, for example `gated`.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Linear => "linear",
            Rule::Gated(_) => "gated",
            Rule::Delta => "delta",
            Rule::GatedDelta(_) => "gated-delta",
        }
    }

    /// Whether the decay is per head or per channel; `None` if the state does not decay.
    pub const fn gate(self) -> Option<Gate> {
        match self {
            Rule::Linear | Rule::Delta => None,
            Rule::Gated(gate) | Rule::GatedDelta(gate) => Some(gate),
        }
    }

    /// Whether each write corrects the value that the state returns for its key.
    pub const fn is_delta(self) -> bool {
        matches!(self, Rule::Delta | Rule::GatedDelta(_))
    }
}

/// Whether a decay is per head or per channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// One decay for all channels of a key head: g is `[B, G, N]`.
    Head,
    /// One decay per channel: g is `[B, G, N, D']`.
    Channel,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage type and axis order. D and E are 1 to [`MAX_DIM`]; M equals N if causal. v may
    /// have more heads than k: see [`Qkv::shared`].
    pub qkv: Qkv,
    /// Update rule.
    pub rule: Rule,
    /// Feature map; `None` means elu1 under rule linear, otherwise identity.
    pub feature_map: Option<FeatureMap>,
    /// F: number of random features, for a map that has them.
    pub features: usize,
    /// How the log decays of a rule that decays are given.
    pub decays: Decays,
    /// Whether beta is the sigmoid of the tensor `beta`.
    pub beta_sigmoid: bool,
    /// Whether the tensor `beta` is `[B, 1, N]`, for all heads.
    pub beta_for_all_heads: bool,
    /// Whether q and k are divided by `sqrt(sum of squares + 1e-6)` before anything else is done with them.
    pub l2norm: bool,
    /// Whether every key head has its own random projections.
    pub omega_per_head: bool,
    /// Horizon of cosformer in tokens: the distance at which its weights reach zero. `None` means the number of queries
    /// or of keys, whichever is larger. Required with a carried state.
    pub max_len: Option<usize>,
    /// Whether to divide by the sum of weights; `None` means only under rule linear.
    pub normalize: Option<bool>,
    /// Factor of the scores; `None` means 1 if normalised, else `1 / sqrt(D)`.
    pub scale: Option<f32>,
    /// Added to the denominator; `None` means 1e-6, or 0 for performer. With 0 and elu1, q and k must not have numbers below
    /// -40, whose features vanish.
    pub norm_eps: Option<f32>,
    /// How it runs along the sequence.
    pub mode: Mode,
}

impl Config {
    /// Causal, normalised, with feature map elu1, without a carried state.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            rule: Rule::Linear,
            feature_map: None,
            features: maps::DEFAULT_FEATURES,
            decays: Decays::PerToken,
            beta_sigmoid: false,
            beta_for_all_heads: false,
            l2norm: false,
            omega_per_head: false,
            max_len: None,
            normalize: None,
            scale: None,
            norm_eps: None,
            mode: Mode::new(),
        }
    }

    /// Sets the feature map.
    #[must_use]
    pub fn map(self, feature_map: FeatureMap) -> Self {
        Self { feature_map: Some(feature_map), ..self }
    }

    /// Sets the update rule.
    #[must_use]
    pub fn rule(self, rule: Rule) -> Self {
        Self { rule, ..self }
    }

    /// The feature map: the setting or its default.
    pub fn feature_map(&self) -> FeatureMap {
        let default = if self.rule == Rule::Linear { FeatureMap::Elu1 } else { FeatureMap::Identity };
        self.feature_map.unwrap_or(default)
    }

    /// Whether outputs are divided by the sum of weights.
    pub fn normalize(&self) -> bool {
        self.normalize.unwrap_or(self.rule == Rule::Linear)
    }

    /// The number added to the denominator: `norm_eps` or its default.
    pub fn norm_eps(&self) -> f32 {
        self.norm_eps.unwrap_or(if self.feature_map() == FeatureMap::Performer { 0.0 } else { 1e-6 })
    }

    /// The factor of the scores: `scale` or its default.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(if self.normalize() { 1.0 } else { self.qkv.default_scale() })
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { batch, queries, keys, dim_k, dim_v, .. } = self.qkv;
        self.qkv.validate_shared(NAME)?;
        for (tensor, axis, dim) in [("k", "D", dim_k), ("v", "E", dim_v)] {
            if dim > MAX_DIM {
                return Err(Error::tensor(NAME, tensor, format!("{axis} of at most {MAX_DIM}"), dim.to_string()));
            }
        }
        self.validate_map()?;
        self.validate_gates()?;
        self.mode.check_all(NAME, "q", batch, [queries, keys])?;
        if self.rule != Rule::Linear && !self.mode.causal {
            let problem = format!(" cannot be used with rule {}, which is causal", self.rule.name());
            return Err(Error::rule(NAME, "causal", problem));
        }
        if self.rule.is_delta() && self.feature_map() != FeatureMap::Identity {
            let expected = format!("identity under rule {}, which takes q and k as given", self.rule.name());
            return Err(Error::setting(NAME, "feature_map", expected, self.feature_map().name()));
        }
        if self.rule.is_delta() && self.normalize() {
            let problem = format!(" cannot be used with rule {}, whose weights may sum to zero", self.rule.name());
            return Err(Error::rule(NAME, "normalize", problem));
        }
        qkv::check_scale(NAME, self.effective_scale())?;
        if !(self.norm_eps().is_finite() && self.norm_eps() >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps().to_string()));
        }
        check_memory(NAME, &self.slots())
    }

    /// The packed state: `state [B, G, D', E]`, or `[B, G, E, D']` in the state layout `ed`; if normalised,
    /// `norm [B, G, D']`; under performer, `log_scale [B, G]`; under cosformer, `position [1]` with one copy per key head.
    /// The first axis of each, that of `position` too, has one entry per packed sequence if there are such; G is V if v
    /// has more heads than k. Its length in elements is [`Slot::checked_count`].
    pub fn state_slot(&self) -> Slot {
        let heads = [self.mode.states(self.qkv.batch), self.qkv.kv_heads];
        let [rows, columns] = self.mode.state_layout.order([self.width(), self.qkv.dim_v]);
        let mut parts = vec![Part::new("state", [heads[0], heads[1], rows, columns], DType::F32)];
        if self.normalize() {
            parts.push(Part::new("norm", [heads[0], heads[1], self.width()], DType::F32));
        }
        parts.extend(self.beside_sums());
        pack::placed("state", Access::Update, DType::F32, parts)
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        slots.extend(self.gate_slot());
        slots.extend(self.gate_weights_slot());
        slots.extend(self.beta_slot());
        slots.extend(self.omega_slot());
        slots.extend(self.mode.borders_slot());
        if self.mode.carry {
            slots.push(self.state_slot());
        }
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        if self.rule.is_delta() { delta::program(self, caps) } else { layout::program(self, caps) }
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
        cpu: crate::operator::CpuBackend::new(
            |c: &Self, tensors| if c.rule.is_delta() { delta_cpu::run(c, tensors) } else { cpu::run(c, tensors) },
            |c: &Self| if c.rule.is_delta() { delta_cpu::variant(c) } else { cpu::variant(c) },
        )
        .in_place(cpu_step::update),
    };

    fn mode(&self) -> Mode {
        self.mode
    }

    /// The horizon of cosformer stays that of the whole run.
    fn plain(&self, length: usize, dtype: DType) -> Self {
        let max_len = (self.feature_map() == FeatureMap::Cosformer).then(|| self.effective_max_len());
        let qkv = self.qkv.queries(length).keys(length).dtype(dtype);
        Self { qkv, max_len, mode: self.mode.plain(), ..self.clone() }
    }

    fn state_elements(&self) -> u64 {
        self.state_slot().checked_count().unwrap_or(u64::MAX)
    }

    fn state_basis(&self) -> StateBasis {
        let mut settings = vec![
            ("rule", self.rule.name().to_owned()),
            ("feature-map", self.feature_map().name().to_owned()),
            ("normalize", self.normalize().to_string()),
        ];
        if self.feature_map() == FeatureMap::Cosformer {
            settings.push(("max-len", self.effective_max_len().to_string()));
        }
        if self.l2norm {
            settings.push(("l2norm", "true".to_owned()));
        }
        settings.extend(self.mode.state_basis());
        StateBasis { settings, weights: &["omega"] }
    }

    fn log_decay(&self) -> Result<LogDecayFn<Self>, Error> {
        summary::log_decay(self)
    }

    /// Without a number added to the denominator, elu1's features must not vanish: e^-40 times e^-40 is near the end of f32.
    fn check_values(&self, tensors: &TensorMap) -> Result<(), Error> {
        if self.feature_map() != FeatureMap::Elu1 || !self.normalize() || self.norm_eps() > 0.0 {
            return Ok(());
        }
        for name in ["q", "k"] {
            let values = tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
            if let Some(value) = values.iter().find(|value| **value < LOWEST_WITHOUT_EPS) {
                let expected = format!("numbers of {LOWEST_WITHOUT_EPS} or more with elu1 and norm_eps 0");
                return Err(Error::tensor(NAME, name, expected, format!("{value}, whose feature vanishes in f32")));
            }
        }
        Ok(())
    }
}

tensors! {
    /// Tensors on the GPU, with the shapes of the module's formula. `state` is the pack described by
    /// [`Config::state_slot`]. It is updated in place.
    required {
        /// `[B, H, N, D]`.
        q,
        /// `[B, G, M, D]`.
        k,
        /// `[B, G, M, E]`.
        v,
        /// `[B, H, N, E]`, written.
        o,
    }
    optional {
        /// Log decays, `[B, G, N]`, `[B, G, N, D']` or `[G]`; required if [`Rule::gate`] is not `None`, otherwise refused.
        g,
        /// `[B, G, N]`, from which log decays are computed; takes the place of `g` under [`Decays::Computed`].
        a,
        /// The packed weights of computed log decays in one buffer: see [`Config::gate_weights_slot`].
        gate_weights,
        /// Strengths, `[B, G, N]` or `[B, 1, N]`; required if [`Rule::is_delta`], otherwise refused.
        beta,
        /// Random projections, `[F, D]` or `[G, F, D]`; required if [`FeatureMap::projects`], otherwise refused.
        omega,
        /// Borders of packed sequences, `[S+1]` in u32; required if `mode.sequences` is set, otherwise refused.
        cu_seqlens,
        /// The packed state in one buffer; required if `mode.carry`, otherwise refused.
        state,
    }
}

weights! { "gate_weights":
    /// `[G]`; required under [`Decays::Computed`], otherwise refused.
    a_log,
    /// `[G]`; required if [`Decays::Computed`] says that it is given, otherwise refused.
    dt_bias,
}
