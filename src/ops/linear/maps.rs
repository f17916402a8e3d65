//! Feature maps: what q and k become before the state sees them, how wide that is, and what the maps need beside q and k.
//!
//! ```text
//! elu1, relu, identity: each element by itself                                                 D' = D
//! performer-relu:  phi(x)_f = max(omega_f . x, 0)                                              D' = F
//! ```
//!
//! Sources: elu1 as in the module above; performer-relu is the generalised attention of Choromanski et al., "Rethinking
//! Attention with Performers" (arXiv 2009.14794, section 2.4), as SLAY's authors compare with it.

use super::{Config, NAME};
use crate::error::Error;
use crate::ops::{Draw, Flags, Request, TensorSpec};
use crate::tensor::{Access, DType, Shape, Slot};

/// Random features where neither flag nor tensor says how many.
pub const DEFAULT_FEATURES: usize = 256;

/// Rows of random projections: shared by all key heads, or with one more axis in front, of each.
pub(super) const OMEGA: TensorSpec = TensorSpec { several: true, ..TensorSpec::weight("omega", "F D") };

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
}

impl FeatureMap {
    /// Every map.
    pub const ALL: [FeatureMap; 4] =
        [FeatureMap::Elu1, FeatureMap::Relu, FeatureMap::Identity, FeatureMap::PerformerRelu];

    /// Those of single elements, as wide as a key.
    pub const OF_ELEMENTS: [FeatureMap; 3] = [FeatureMap::Elu1, FeatureMap::Relu, FeatureMap::Identity];

    /// Name as a flag: `elu1`.
    pub const fn name(self) -> &'static str {
        match self {
            FeatureMap::Elu1 => "elu1",
            FeatureMap::Relu => "relu",
            FeatureMap::Identity => "identity",
            FeatureMap::PerformerRelu => "performer-relu",
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
        matches!(self, FeatureMap::PerformerRelu)
    }
}

impl Config {
    /// D': rows of the state, as wide as the features.
    pub fn width(&self) -> usize {
        if self.feature_map.projects() { self.features } else { self.qkv.dim_k }
    }

    /// The random projections, `omega [F, D]` or `[G, F, D]`; `None` for a map without.
    pub fn omega_slot(&self) -> Option<Slot> {
        let (g, f, d) = (self.qkv.kv_heads, self.features, self.qkv.dim_k);
        let shape: Shape = if self.omega_per_head { [g, f, d].into() } else { [f, d].into() };
        self.feature_map.projects().then(|| Slot::plain("omega", Access::Read, DType::F32, shape))
    }

    /// How omega is drawn where none is given.
    pub(super) fn omega_draw(&self) -> Draw {
        Draw::Shaped(over_root)
    }

    /// Takes from flags and tensors what the map needs.
    pub(super) fn set_map(&mut self, request: &Request<'_>) -> Result<(), Error> {
        let flags = request.flags;
        if let Some(map) = flags.word("feature-map") {
            self.feature_map = FeatureMap::parse(map)?;
        }
        let features = flags.count(NAME, "features")?;
        self.features = features.unwrap_or(self.features);
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
        Ok(())
    }
}

/// What flags of the maps alone can get wrong.
pub(super) fn usage(flags: &Flags) -> Result<(), Error> {
    let map = flags.word("feature-map").map(FeatureMap::parse).transpose()?;
    flags.count(NAME, "features")?;
    if flags.word("features").is_some() && !map.is_some_and(FeatureMap::projects) {
        let text = "--features needs a feature map with random features: performer-relu";
        return Err(Error::Usage(format!("{NAME}: {text}")));
    }
    Ok(())
}

/// Standard normal rows over the root of D.
fn over_root(shape: &Shape, values: &mut [f32]) {
    let root = (shape.dims().last().copied().unwrap_or(1) as f32).sqrt();
    values.iter_mut().for_each(|x| *x /= root);
}
