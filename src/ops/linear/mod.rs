//! Linear attention: a state `S` of key features times values, read by query features.
//!
//! For every batch and head, with feature map `phi`, key head `g` read by query head `h` where `g = h / (H / G)`:
//!
//! ```text
//! S_t = S_{t-1} + phi(k_t) v_t^T        [D, E]
//! z_t = z_{t-1} + phi(k_t)              [D]        (when normalised)
//! o_t = scale * S_t^T phi(q_t)                     (not normalised)
//! o_t = scale * S_t^T phi(q_t) / (scale * z_t . phi(q_t) + norm_eps)
//! ```
//!
//! The read follows the write at the same step, so token t sees itself. Without the causal mask every query reads the
//! last state. Source: Katharopoulos et al., "Transformers are RNNs" (arXiv 2006.16236), equations 9 to 12, with
//! `phi(x) = elu(x) + 1` (equation 7). With `identity` and no normaliser it is the update rule `linear` of ONNX
//! LinearAttention, whose state layout this shares.
//!
//! Cost: `4 D E` flops a token and head, `8 D E` where two passes are needed; state `D (E + 1)` floats a key head.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::{
    Causality, Cost, Definition, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv, Request, Rows, TensorSpec,
    qkv,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Slot, Tensor, TensorMap};

const NAME: &str = "linear";

/// The largest head dimension, of keys and of values.
pub const MAX_DIM: usize = 256;

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "linear attention: a state of key features times values, read by query features",
    inputs: &qkv::INPUTS,
    outputs: &[qkv::OUTPUT],
    state: &[TensorSpec::state("state", "B G D E"), TensorSpec::state("norm", "B G D").drawn(Draw::Positive)],
    axes: &qkv::AXES,
    flags: &[
        Flag { name: "rule", kind: FlagKind::Choice(&["linear"]), help: "update rule of the state (linear)" },
        Flag {
            name: "feature-map",
            kind: FlagKind::Choice(&["elu1", "relu", "identity"]),
            help: "map applied to q and k (elu1)",
        },
        Flag { name: "normalize", kind: FlagKind::Switch, help: "divide by the sum of weights (on)" },
        Flag { name: "scale", kind: FlagKind::Number, help: "factor of the scores (1 if normalised, else 1/sqrt D)" },
        Flag { name: "norm-eps", kind: FlagKind::Number, help: "added to the denominator (1e-6)" },
    ],
    causal: Causality::Both,
    recurrent: true,
    complexity: "N D E",
    usage,
    configure,
    cases: cases::cases,
};

/// Map applied to every element of q and k before the state sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeatureMap {
    /// `elu(x) + 1`: `x + 1` above zero, `exp(x)` below.
    Elu1,
    /// `max(x, 0)`.
    Relu,
    /// `x`.
    Identity,
}

impl FeatureMap {
    /// Every map.
    pub const ALL: [FeatureMap; 3] = [FeatureMap::Elu1, FeatureMap::Relu, FeatureMap::Identity];

    /// Name as a flag: `elu1`.
    pub const fn name(self) -> &'static str {
        match self {
            FeatureMap::Elu1 => "elu1",
            FeatureMap::Relu => "relu",
            FeatureMap::Identity => "identity",
        }
    }

    fn parse(word: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|map| map.name() == word).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::Usage(format!("{NAME}: --feature-map: expected one of {names}, found `{word}`"))
        })
    }
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order. D and E are 1 to [`MAX_DIM`]; M equals N when causal.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to i.
    pub causal: bool,
    /// Feature map.
    pub feature_map: FeatureMap,
    /// Whether to divide by the sum of weights.
    pub normalize: bool,
    /// Factor of the scores; `None`: 1 if normalised, else `1 / sqrt(D)`.
    pub scale: Option<f32>,
    /// Added to the denominator.
    pub norm_eps: f32,
    /// Tokens in a segment of the scan; `None`: the plan chooses. Given, the sums of segments are folded from the left,
    /// so that a sequence cut at multiples of it gives the same bits as the sequence whole.
    pub segment: Option<usize>,
    /// Whether the state is read before and written after. Without it the state starts at zero and is not returned.
    pub carry: bool,
    /// The one-token form: one dispatch, needs N = 1, causal and `carry`.
    pub decode: bool,
}

impl Config {
    /// Causal, normalised, elu1, without a carried state.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            causal: true,
            feature_map: FeatureMap::Elu1,
            normalize: true,
            scale: None,
            norm_eps: 1e-6,
            segment: None,
            carry: false,
            decode: false,
        }
    }

    /// The factor of the scores in force.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(if self.normalize { 1.0 } else { self.qkv.default_scale() })
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { queries, keys, dim_k, dim_v, .. } = self.qkv;
        self.qkv.validate(NAME)?;
        for (tensor, axis, dim) in [("k", "D", dim_k), ("v", "E", dim_v)] {
            if dim > MAX_DIM {
                return Err(Error::tensor(NAME, tensor, format!("{axis} of at most {MAX_DIM}"), dim.to_string()));
            }
        }
        super::check_walk(NAME, queries, keys, self.causal, self.carry, self.decode, self.segment)?;
        qkv::check_scale(NAME, self.effective_scale())?;
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps.to_string()));
        }
        check_memory(NAME, &self.slots())
    }

    /// The packed state: `state [B, G, D, E]` and, when normalised, `norm [B, G, D]`, with their offsets. Its length in
    /// elements is [`Slot::checked_count`].
    pub fn state_slot(&self) -> Slot {
        let state = [self.qkv.batch, self.qkv.kv_heads, self.qkv.dim_k, self.qkv.dim_v];
        let mut parts = vec![("state", state.into())];
        if self.normalize {
            parts.push(("norm", state[..3].into()));
        }
        pack::slot("state", Access::Update, DType::F32, &parts)
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        if self.carry {
            slots.push(self.state_slot());
        }
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        layout::program(self, caps)
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        self.validate()?;
        check_inputs(NAME, &self.slots(), tensors)?;
        Ok(cpu::run(self, tensors))
    }

    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String {
        cpu::variant(self)
    }

    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition {
        match precision {
            Precision::F32 => reference::outputs::<f32>(self, tensors, rows),
            Precision::F64 => reference::outputs::<f64>(self, tensors, rows),
        }
    }

    fn cost(&self) -> Cost {
        layout::essential(self)
    }
}

/// Inputs on the GPU, with the shapes of the module's formula. `state` is the pack described by [`Config`]'s state slot,
/// updated in place.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[B, H, N, D]`.
    pub q: &'a Tensor,
    /// `[B, G, M, D]`.
    pub k: &'a Tensor,
    /// `[B, G, M, E]`.
    pub v: &'a Tensor,
    /// `[B, H, N, E]`, written.
    pub o: &'a Tensor,
    /// State and norm in one buffer; given if and only if [`Config::carry`].
    pub state: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let mut named = vec![("q", tensors.q), ("k", tensors.k), ("v", tensors.v), ("o", tensors.o)];
    named.extend(tensors.state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

fn usage(flags: &Flags) -> Result<(), Error> {
    if let Some(rule) = flags.word("rule")
        && rule != "linear"
    {
        return Err(Error::Usage(format!("{NAME}: --rule: expected linear, found `{rule}`")));
    }
    flags.word("feature-map").map(FeatureMap::parse).transpose()?;
    flags.number(NAME, "scale")?;
    flags.count(NAME, "segment")?;
    if flags.number(NAME, "norm-eps")?.is_some_and(|eps| eps < 0.0) {
        return Err(Error::Usage(format!("{NAME}: --norm-eps: expected 0 or more, found a negative number")));
    }
    super::check_decode_flags(NAME, flags)?;
    if flags.switch("normalize") == Some(false) && flags.word("norm-eps").is_some() {
        return Err(Error::Usage(format!("{NAME}: --norm-eps needs the normaliser that --no-normalize turns off")));
    }
    Ok(())
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let mut config = Config::new(Qkv::of(&OP, request)?);
    config.carry = request.carry;
    config.causal = flags.switch("causal").unwrap_or(true);
    config.decode = flags.switch("decode").unwrap_or(false);
    config.segment = flags.count(NAME, "segment")?;
    config.normalize = flags.switch("normalize").unwrap_or(true);
    config.scale = flags.number(NAME, "scale")?;
    if let Some(map) = flags.word("feature-map") {
        config.feature_map = FeatureMap::parse(map)?;
    }
    if let Some(eps) = flags.number(NAME, "norm-eps")? {
        config.norm_eps = eps;
    }
    config.validate()?;
    Ok(Box::new(config))
}
