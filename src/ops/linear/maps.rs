//! Feature maps: what q and k become before the state sees them, how wide that is, and what the maps need beside q and k.
//!
//! ```text
//! elu1, relu, identity: each element by itself                                                 D' = D
//! performer-relu:  phi(x)_f = max(omega_f . x, 0)                                              D' = F
//! performer:       phi(x)_f = F^(-1/2) exp(omega_f . y - |y|^2 / 2), y = x / D^(1/4)           D' = F
//! cosformer:       phi(x_n) = [max(x_n, 0) cos th_n, max(x_n, 0) sin th_n]                     D' = 2 D
//!                  th_n = (pi / 2) n / max_len, where n counts tokens from the beginning of the sequence
//! ```
//!
//! so that cosformer's weights are those of relu times `cos(th_i - th_j)`, and performer's in the mean over omega those of
//! softmax, `exp(q . k / sqrt D)`. Performer's state is kept relative to a level, `log_scale`: the largest exponent of a key so
//! far, which decays as the state does; the true state is `state * exp(log_scale)`. Sources: elu1 as in the module above; cosformer is
//! Qin et al., "cosFormer: Rethinking Softmax in Attention" (arXiv 2202.08791, section 3.3); performer is FAVOR+ of
//! Choromanski et al., "Rethinking Attention with Performers" (arXiv 2009.14794, lemma 1), whose own code subtracts a maximum
//! over the whole sequence; performer-relu is the generalised attention of Choromanski et al., "Rethinking
//! Attention with Performers" (arXiv 2009.14794, section 2.4), as SLAY's authors compare with it.

use super::{Config, Gate, NAME, Rule};
use crate::error::Error;
use crate::ops::{Draw, Flags, Request, TensorSpec, float};
use crate::tensor::{Access, DType, HostTensor, Part, Shape, Slot, TensorMap, Values};

/// Random features where neither flag nor tensor says how many.
pub const DEFAULT_FEATURES: usize = 256;

/// Rows of random projections: shared by all key heads, or with one more axis in front, of each.
pub(super) const OMEGA: TensorSpec = TensorSpec { several: true, ..TensorSpec::weight("omega", "F D") };

/// What the state is relative to: the true one is e^log_scale times as large.
pub(super) const LOG_SCALE: TensorSpec = TensorSpec::state("log_scale", "B G");

/// That of a state that holds nothing yet: below all others.
const NOTHING: f32 = crate::ops::walk::NOTHING as f32;

/// Tokens before those of a run, of which cosformer's angles go on.
pub(super) const POSITION: TensorSpec = TensorSpec::state("position", "1").drawn(Draw::Shaped(far));

/// A position some tokens into a sequence.
fn far(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = (x.abs() * 1e4).floor());
}

/// The largest `max_len`: positions within four of them are counted in 32 bits.
const MOST_TOKENS: usize = 1 << 29;

/// Map applied to q and k before the state sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeatureMap {
    /// `elu(x) + 1` of every element: `x + 1` above zero, `exp(x)` below.
    Elu1,
    /// `max(x, 0)` of every element.
    Relu,
    /// `x`.
    Identity,
    /// `max(omega . x, 0)`.
    PerformerRelu,
    /// Positive random features of softmax, FAVOR+: `exp(omega . y - |y|^2 / 2)` by the root of F.
    Performer,
    /// `max(x, 0)` of every element by the cosine, then by the sine, of an angle that grows with the token.
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

    /// Those of single elements, as wide as a key.
    pub const OF_ELEMENTS: [FeatureMap; 3] = [FeatureMap::Elu1, FeatureMap::Relu, FeatureMap::Identity];

    /// Name as a flag: `elu1`.
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

    pub(super) fn parse(word: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|map| map.name() == word).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::Usage(format!("{NAME}: --feature-map: expected one of {names}, found `{word}`"))
        })
    }

    /// Whether it projects on `omega`.
    pub const fn projects(self) -> bool {
        matches!(self, FeatureMap::Performer | FeatureMap::PerformerRelu)
    }
}

impl Config {
    /// D': rows of the state, as wide as the features.
    pub fn width(&self) -> usize {
        match self.feature_map {
            FeatureMap::Elu1 | FeatureMap::Relu | FeatureMap::Identity => self.qkv.dim_k,
            FeatureMap::Performer | FeatureMap::PerformerRelu => self.features,
            FeatureMap::Cosformer => self.qkv.dim_k.saturating_mul(2),
        }
    }

    /// Tokens over which cosformer's weights fade to nothing.
    pub fn effective_max_len(&self) -> usize {
        self.max_len.unwrap_or(self.qkv.queries.max(self.qkv.keys))
    }

    /// The part of the state that is no sum of features.
    pub(super) fn beside_sums(&self) -> Option<Part> {
        let copies = self.qkv.batch.saturating_mul(self.qkv.kv_heads);
        match self.feature_map {
            FeatureMap::Cosformer => Some(Part { copies, ..Part::new(POSITION.name, [1], DType::I64) }),
            FeatureMap::Performer => {
                let heads = [self.qkv.batch, self.qkv.kv_heads];
                Some(Part { initial: NOTHING, ..Part::new(LOG_SCALE.name, heads, DType::F32) })
            }
            _ => None,
        }
    }

    /// The random projections, `omega [F, D]` or `[G, F, D]`; `None` for a map without.
    pub fn omega_slot(&self) -> Option<Slot> {
        let (g, f, d) = (self.qkv.kv_heads, self.features, self.qkv.dim_k);
        let shape: Shape = if self.omega_per_head { [g, f, d].into() } else { [f, d].into() };
        self.feature_map.projects().then(|| Slot::plain("omega", Access::Read, DType::F32, shape))
    }

    /// How omega is drawn where none is given.
    pub(super) fn omega_draw(&self) -> Draw {
        Draw::Shaped(if self.feature_map == FeatureMap::Performer { orthogonal } else { over_root })
    }

    /// Takes from flags and tensors what the map needs.
    pub(super) fn set_map(&mut self, request: &Request<'_>) -> Result<(), Error> {
        let flags = request.flags;
        if let Some(map) = flags.word("feature-map") {
            self.feature_map = FeatureMap::parse(map)?;
        }
        if self.feature_map == FeatureMap::Performer {
            self.norm_eps = 0.0;
        }
        let features = flags.count(NAME, "features")?;
        self.features = features.unwrap_or(self.features);
        self.max_len = flags.count(NAME, "max-len")?;
        if self.feature_map == FeatureMap::Cosformer && request.carry && self.max_len.is_none() {
            let text = "--feature-map cosformer needs --max-len with --state-in or --state-out";
            return Err(Error::Usage(format!("{NAME}: {text}, which do not say how long the sequence is")));
        }
        let Some(shape) = request.shape("omega") else { return Ok(()) };
        if !self.feature_map.projects() {
            let expected = format!("none with --feature-map {}", self.feature_map.name());
            return Err(Error::tensor(NAME, "omega", expected, shape.to_string()));
        }
        let (per_head, dims) = match shape.dims() {
            [f, d] => (None, [*f, *d]),
            [g, f, d] => (Some(*g), [*f, *d]),
            _ => {
                let found = format!("rank {} {shape}", shape.rank());
                return Err(Error::tensor(NAME, "omega", "rank 2 or 3 [F, D] or [G, F, D]", found));
            }
        };
        let (d, g) = (self.qkv.dim_k, self.qkv.kv_heads);
        if dims[1] != d {
            return Err(Error::tensor(NAME, "omega", format!("dim D = {d} as in q"), shape.to_string()));
        }
        if per_head.is_some_and(|heads| heads != g) {
            return Err(Error::tensor(NAME, "omega", format!("G = {g} key heads as in k"), shape.to_string()));
        }
        if features.is_some_and(|wanted| wanted != dims[0]) {
            let expected = format!("{} as in --features", self.features);
            return Err(Error::tensor(NAME, "omega", expected, shape.to_string()));
        }
        self.features = dims[0];
        self.omega_per_head = per_head.is_some();
        Ok(())
    }

    /// Checks what the map can get wrong.
    pub(super) fn validate_map(&self) -> Result<(), Error> {
        let most = 1 << 20;
        if self.feature_map.projects() && !(1..=most).contains(&self.features) {
            return Err(Error::setting(NAME, "features", format!("1 to {most}"), self.features.to_string()));
        }
        if self.feature_map == FeatureMap::Performer && self.rule == Rule::Gated(Gate::Channel) {
            let expected = "one log decay a head under the feature map performer, whose state has one scale a head";
            return Err(Error::tensor(NAME, "g", expected, "one a channel"));
        }
        if self.feature_map == FeatureMap::Cosformer {
            if self.carry && self.max_len.is_none() {
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

/// What flags of the maps alone can get wrong.
pub(super) fn usage(flags: &Flags) -> Result<(), Error> {
    let map = flags.word("feature-map").map(FeatureMap::parse).transpose()?;
    flags.count(NAME, "features")?;
    if flags.word("features").is_some() && !map.is_some_and(FeatureMap::projects) {
        let text = "--features needs a feature map with random features: performer or performer-relu";
        return Err(Error::Usage(format!("{NAME}: {text}")));
    }
    flags.count(NAME, "max-len")?;
    if flags.word("max-len").is_some() && map != Some(FeatureMap::Cosformer) {
        return Err(Error::Usage(format!("{NAME}: --max-len needs --feature-map cosformer")));
    }
    Ok(())
}

/// Standard normal rows over the root of D.
fn over_root(shape: &Shape, values: &mut [f32]) {
    let root = (shape.dims().last().copied().unwrap_or(1) as f32).sqrt();
    values.iter_mut().for_each(|x| *x /= root);
}

/// From standard normal rows to orthogonal ones, block by block of D, each as long as it was: its length does not depend on
/// the directions that come of the others.
fn orthogonal(shape: &Shape, values: &mut [f32]) {
    let [.., rows, d] = *shape.dims() else { return };
    for head in values.chunks_exact_mut(rows * d) {
        for block in head.chunks_mut(d * d) {
            let mut units: Vec<Vec<f64>> = Vec::new();
            for row in block.chunks_exact_mut(d) {
                let mut x: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                let norm = |x: &[f64]| float::dot(x, x).sqrt();
                let length = norm(&x);
                // Twice: once leaves what rounding of nearly parallel rows makes.
                for unit in units.iter().chain(&units) {
                    let along = float::dot(unit, &x);
                    x.iter_mut().zip(unit).for_each(|(x, unit)| *x -= along * unit);
                }
                let left = norm(&x);
                x.iter_mut().for_each(|x| *x /= left);
                row.iter_mut().zip(&x).for_each(|(row, x)| *row = (length * x) as f32);
                units.push(x);
            }
        }
    }
}

/// Tokens before those of a run.
pub(super) fn position(tensors: &TensorMap) -> u64 {
    match tensors.get(POSITION.name).map(HostTensor::values) {
        Some(Values::I64(position)) => position[0] as u64,
        _ => 0,
    }
}

/// That behind them, as a tensor.
pub(super) fn position_after(tensors: &TensorMap, tokens: usize) -> i64 {
    position(tensors).wrapping_add(tokens as u64) as i64
}

/// Cosine and sine of cosformer's angle of token n; what whole turns add is left out before anything is rounded.
pub(super) fn angle(n: u64, max_len: usize) -> [f64; 2] {
    let quarters = (n % (4 * max_len as u64)) as f64 / max_len as f64;
    let (sine, cosine) = (std::f64::consts::FRAC_PI_2 * quarters).sin_cos();
    [cosine, sine]
}
