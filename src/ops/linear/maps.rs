//! Feature maps: the functions applied to q and k, the number of features D', and the tensors that a map needs besides
//! q and k.
//!
//! ```text
//! elu1, relu, identity: each element by itself                                                 D' = D
//! performer-relu:  phi(x)_f = max(omega_f . x, 0)                                              D' = F
//! performer:       phi(x)_f = F^(-1/2) exp(omega_f . y - |y|^2 / 2), y = x / D^(1/4)           D' = F
//! cosformer:       phi(x_n) = [max(x_n, 0) cos th_n, max(x_n, 0) sin th_n]                     D' = 2 D
//!                  th_n = (pi / 2) n / max_len, where n counts tokens from the beginning of the sequence
//! ```
//!
//! The weights of cosformer are those of relu times `cos(th_i - th_j)`. The weights of performer are, in the mean over
//! omega, those of softmax, `exp(q . k / sqrt D)`. Performer's state is stored relative to a running maximum, `log_scale`: the
//! largest exponent of a key so far, which decays with the state. The true state is `state * exp(log_scale)`.
//!
//! Sources: for elu1 see the module [`linear`](super). cosformer is Qin et al., "cosFormer: Rethinking Softmax in
//! Attention" (arXiv 2202.08791, section 3.3). performer is FAVOR+ of Choromanski et al., "Rethinking Attention with
//! Performers" (arXiv 2009.14794, lemma 1); their own code subtracts a maximum over the whole sequence. performer-relu
//! is the generalised attention of the same paper (section 2.4), in the form that SLAY's authors compare with.

use super::{Config, Gate, NAME, Rule};
use crate::error::Error;
use crate::tensor::{Access, DType, HostTensor, Part, Shape, Slot, TensorMap, Values};

/// Default number of random features, if neither a flag nor a tensor gives it.
pub(super) const DEFAULT_FEATURES: usize = 256;

/// The initial `log_scale`, of an empty state. It is below all others.
pub(super) const NOTHING: f32 = crate::cores::recurrence::reference::NOTHING as f32;

/// The largest `max_len`: positions are taken modulo four times this number, which must fit in 32 bits.
pub(super) const MOST_TOKENS: usize = 1 << 29;

/// A map applied to q and k before they are used with the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FeatureMap {
    /// `elu(x) + 1` of every element: `x + 1` above zero, `exp(x)` below.
    Elu1,
    /// `max(x, 0)` of every element.
    Relu,
    /// `x`.
    Identity,
    /// `max(omega . x, 0)`.
    PerformerRelu,
    /// Positive random features of softmax (FAVOR+): `exp(omega . y - |y|^2 / 2) / sqrt(F)` with `y = x / D^(1/4)`.
    Performer,
    /// `max(x, 0)` of every element, times the cosine, then times the sine, of an angle that grows with the position.
    Cosformer,
}

impl FeatureMap {
    /// Every map.
    pub const ALL: [FeatureMap; 6] = [
        FeatureMap::Elu1,
        FeatureMap::Relu,
        FeatureMap::Identity,
        FeatureMap::Performer,
        FeatureMap::PerformerRelu,
        FeatureMap::Cosformer,
    ];

    /// The maps of single elements, whose number of features is D.
    pub const OF_ELEMENTS: [FeatureMap; 3] = [FeatureMap::Elu1, FeatureMap::Relu, FeatureMap::Identity];

    /// The value of `--feature-map`, for example `elu1`.
    pub const fn name(self) -> &'static str {
        match self {
            FeatureMap::Elu1 => "elu1",
            FeatureMap::Relu => "relu",
            FeatureMap::Identity => "identity",
            FeatureMap::PerformerRelu => "performer-relu",
            FeatureMap::Performer => "performer",
            FeatureMap::Cosformer => "cosformer",
        }
    }

    /// The map of that name.
    #[cfg(feature = "catalog")]
    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|map| map.name() == word)
    }

    /// Whether it projects vectors on `omega`.
    pub const fn projects(self) -> bool {
        matches!(self, FeatureMap::Performer | FeatureMap::PerformerRelu)
    }
}

impl Config {
    /// D': the number of features, which is the number of rows of the state.
    pub fn width(&self) -> usize {
        match self.feature_map() {
            FeatureMap::Elu1 | FeatureMap::Relu | FeatureMap::Identity => self.qkv.dim_k,
            FeatureMap::Performer | FeatureMap::PerformerRelu => self.features,
            FeatureMap::Cosformer => self.qkv.dim_k.saturating_mul(2),
        }
    }

    /// Horizon of cosformer in tokens: the distance at which its weights reach zero.
    pub fn effective_max_len(&self) -> usize {
        self.max_len.unwrap_or(self.qkv.queries.max(self.qkv.keys))
    }

    /// The part of the state that is not a sum of features.
    pub(super) fn beside_sums(&self) -> Option<Part> {
        let copies = self.qkv.batch.saturating_mul(self.qkv.kv_heads);
        let states = self.mode.states(self.qkv.batch);
        match self.feature_map() {
            FeatureMap::Cosformer => {
                Some(Part { copies, ..Part::new("position", [self.mode.sequences.unwrap_or(1)], DType::I64) })
            }
            FeatureMap::Performer => {
                let log_scale = Part::new("log_scale", [states, self.qkv.kv_heads], DType::F32);
                Some(Part { initial: NOTHING, ..log_scale })
            }
            _ => None,
        }
    }

    /// The slot of random projections, `omega [F, D]` or `[G, F, D]`; `None` for a map without projections.
    pub fn omega_slot(&self) -> Option<Slot> {
        let (g, f, d) = (self.qkv.key_heads(), self.features, self.qkv.dim_k);
        let shape: Shape = if self.omega_per_head { [g, f, d].into() } else { [f, d].into() };
        self.feature_map().projects().then(|| Slot::plain("omega", Access::Read, DType::F32, shape))
    }

    /// Checks the settings of the feature map.
    pub(super) fn validate_map(&self) -> Result<(), Error> {
        let most = 1 << 20;
        if self.feature_map().projects() && !(1..=most).contains(&self.features) {
            return Err(Error::setting(NAME, "features", format!("1 to {most}"), self.features.to_string()));
        }
        if self.feature_map() == FeatureMap::Performer && self.rule == Rule::Gated(Gate::Channel) {
            let expected = "one log decay a head under the feature map performer, whose state has one scale a head";
            return Err(Error::tensor(NAME, "g", expected, "one a channel"));
        }
        if self.feature_map() == FeatureMap::Cosformer {
            if self.mode.carry && self.max_len.is_none() {
                return Err(Error::setting(NAME, "max_len", "a length, which a carried state does not say", "none"));
            }
            let (least, found) = (self.qkv.queries.max(self.qkv.keys), self.effective_max_len());
            if !(least..=MOST_TOKENS).contains(&found) {
                let expected = format!("{least}, the tokens of the run, to {MOST_TOKENS}");
                return Err(Error::setting(NAME, "max_len", expected, found.to_string()));
            }
        }
        Ok(())
    }
}

/// Number of tokens before those of this run.
pub(super) fn position(tensors: &TensorMap) -> u64 {
    match tensors.get("position").map(HostTensor::values) {
        Some(Values::I64(position)) => position[0] as u64,
        _ => 0,
    }
}

/// The value of `position` after this run.
pub(super) fn position_after(tensors: &TensorMap, tokens: usize) -> i64 {
    position(tensors).wrapping_add(tokens as u64) as i64
}

/// Cosine and sine of cosformer's angle of token n. Whole turns are removed before anything is rounded.
pub(super) fn angle(n: u64, max_len: usize) -> [f64; 2] {
    let quarters = (n % (4 * max_len as u64)) as f64 / max_len as f64;
    let (sine, cosine) = (std::f64::consts::FRAC_PI_2 * quarters).sin_cos();
    [cosine, sine]
}
