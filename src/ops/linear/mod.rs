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
    AxisDefault, Causality, Cost, Definition, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Request, TensorSpec,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Context, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Layout, Slot, Tensor, TensorMap};

const NAME: &str = "linear";

/// The largest head dimension, of keys and of values.
pub const MAX_DIM: usize = 256;

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "linear attention: a state of key features times values, read by query features",
    inputs: &[
        TensorSpec::sequence("q", "B H N D"),
        TensorSpec::sequence("k", "B G M D"),
        TensorSpec::sequence("v", "B G M E"),
    ],
    outputs: &[TensorSpec::sequence("o", "B H N E")],
    state: &[TensorSpec::state("state", "B G D E"), TensorSpec::state("norm", "B G D").drawn(Draw::Positive)],
    axes: &[
        ("B", AxisDefault::Length(1)),
        ("H", AxisDefault::Length(8)),
        ("G", AxisDefault::Same("H")),
        ("N", AxisDefault::Length(1024)),
        ("M", AxisDefault::Same("N")),
        ("D", AxisDefault::Length(64)),
        ("E", AxisDefault::Same("D")),
    ],
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
    /// B: batch.
    pub batch: usize,
    /// H: query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// G: key and value heads.
    pub kv_heads: usize,
    /// N: query length.
    pub queries: usize,
    /// M: key length; equal to N when causal.
    pub keys: usize,
    /// D: key dimension, 1 to [`MAX_DIM`].
    pub dim_k: usize,
    /// E: value dimension, 1 to [`MAX_DIM`].
    pub dim_v: usize,
    /// Storage of q, k, v and o. State is f32.
    pub dtype: DType,
    /// Axis order of q, k, v and o.
    pub layout: Layout,
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
    /// Causal, normalised, elu1, f32, layout bhnd, without a carried state, for q, k `[batch, heads, len, dim_k]` and
    /// v `[batch, heads, len, dim_v]`.
    pub fn new(batch: usize, heads: usize, len: usize, dim_k: usize, dim_v: usize) -> Self {
        Self {
            batch,
            heads,
            kv_heads: heads,
            queries: len,
            keys: len,
            dim_k,
            dim_v,
            dtype: DType::F32,
            layout: Layout::Bhnd,
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
        self.scale.unwrap_or(if self.normalize { 1.0 } else { 1.0 / (self.dim_k as f32).sqrt() })
    }

    /// Query heads that read one key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        for (axis, length) in [
            ("B", self.batch),
            ("H", self.heads),
            ("G", self.kv_heads),
            ("N", self.queries),
            ("M", self.keys),
            ("D", self.dim_k),
            ("E", self.dim_v),
        ] {
            if length == 0 {
                return Err(Error::setting(NAME, axis, "1 or more", "0"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let expected = format!("key heads that divide the {} query heads", self.heads);
            return Err(Error::tensor(NAME, "k", expected, format!("{} key heads", self.kv_heads)));
        }
        for (tensor, axis, dim) in [("k", "D", self.dim_k), ("v", "E", self.dim_v)] {
            if dim > MAX_DIM {
                return Err(Error::tensor(NAME, tensor, format!("{axis} of at most {MAX_DIM}"), dim.to_string()));
            }
        }
        if self.dtype == DType::I64 {
            return Err(Error::tensor(NAME, "q", "f32 or f16", "i64"));
        }
        if self.causal && self.queries != self.keys {
            let expected = format!("M = N = {} for the causal form", self.queries);
            return Err(Error::tensor(NAME, "k", expected, format!("M = {}", self.keys)));
        }
        if !self.causal && self.carry {
            return Err(Error::setting(NAME, "carry", "none for the non-causal form", "a state"));
        }
        if self.decode && !(self.causal && self.carry) {
            return Err(Error::setting(NAME, "decode", "a causal form with a carried state", "none"));
        }
        if self.decode && self.queries != 1 {
            return Err(Error::tensor(NAME, "q", "N = 1 to decode", format!("N = {}", self.queries)));
        }
        if self.segment == Some(0) {
            return Err(Error::setting(NAME, "segment", "1 or more", "0"));
        }
        let scale = self.effective_scale();
        if !scale.is_finite() {
            return Err(Error::setting(NAME, "scale", "a finite number", scale.to_string()));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps.to_string()));
        }
        if self.decode && self.segment.is_some() {
            return Err(Error::setting(NAME, "segment", "none to decode one token", "a length"));
        }
        check_memory(NAME, &self.slots())
    }

    /// The packed state: `state [B, G, D, E]` and, when normalised, `norm [B, G, D]`, with their offsets. Its length in
    /// elements is [`Slot::checked_count`].
    pub fn state_slot(&self) -> Slot {
        let state = [self.batch, self.kv_heads, self.dim_k, self.dim_v];
        let mut parts = vec![("state", state.into())];
        if self.normalize {
            parts.push(("norm", state[..3].into()));
        }
        pack::slot("state", Access::Update, DType::F32, &parts)
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let tensor = |name, access, heads, len, dim| {
            Slot::plain(name, access, self.dtype, self.layout.shape(self.batch, heads, len, dim))
        };
        let mut slots = vec![
            tensor("q", Access::Read, self.heads, self.queries, self.dim_k),
            tensor("k", Access::Read, self.kv_heads, self.keys, self.dim_k),
            tensor("v", Access::Read, self.kv_heads, self.keys, self.dim_v),
            tensor("o", Access::Write, self.heads, self.queries, self.dim_v),
        ];
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

    fn reference(&self, tensors: &TensorMap, precision: Precision) -> Definition {
        match precision {
            Precision::F32 => reference::outputs::<f32>(self, tensors),
            Precision::F64 => reference::outputs::<f64>(self, tensors),
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

/// Binds the tensors of a plan made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let mut named = vec![("q", tensors.q), ("k", tensors.k), ("v", tensors.v), ("o", tensors.o)];
    named.extend(tensors.state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

/// A plan for this configuration.
///
/// # Errors
/// What [`Config::validate`] refuses, and limits of the device.
pub fn plan(ctx: &Context, config: &Config) -> Result<Plan, Error> {
    Plan::new(ctx, config.program(ctx.caps())?)
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
    if flags.switch("decode") == Some(true) && flags.word("segment").is_some() {
        return Err(Error::Usage(format!("{NAME}: --decode takes one token and has no --segment")));
    }
    if flags.switch("normalize") == Some(false) && flags.word("norm-eps").is_some() {
        return Err(Error::Usage(format!("{NAME}: --norm-eps needs the normaliser that --no-normalize turns off")));
    }
    Ok(())
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let axes = |spec: &TensorSpec| -> Result<[usize; 4], Error> {
        let d = request.required(NAME, spec)?.dims();
        Ok(match request.layout {
            Layout::Bhnd => [d[0], d[1], d[2], d[3]],
            Layout::Bnhd => [d[0], d[2], d[1], d[3]],
        })
    };
    let [batch, heads, queries, dim_k] = axes(&OP.inputs[0])?;
    let [batch_k, kv_heads, keys, dim_k2] = axes(&OP.inputs[1])?;
    let [batch_v, heads_v, keys_v, dim_v] = axes(&OP.inputs[2])?;
    for (tensor, what, expected, of, found) in [
        ("k", "batch B", batch, "q", batch_k),
        ("v", "batch B", batch, "q", batch_v),
        ("k", "key dim D", dim_k, "q", dim_k2),
        ("v", "heads G", kv_heads, "k", heads_v),
        ("v", "length M", keys, "k", keys_v),
    ] {
        if expected != found {
            return Err(Error::tensor(NAME, tensor, format!("{what} = {expected} as in {of}"), found.to_string()));
        }
    }
    let mut config = Config::new(batch, heads, queries, dim_k, dim_v);
    config.kv_heads = kv_heads;
    config.keys = keys;
    config.dtype = request.dtype;
    config.layout = request.layout;
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
