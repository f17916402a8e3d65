//! Linear attention: a state `S` of key features times values, read by query features.
//!
//! For every batch and head, with [feature map](FeatureMap) `phi`, key head `g` read by query head `h` where `g = h / (H / G)`:
//!
//! ```text
//! S_t = diag(exp g_t) S_{t-1} + phi(k_t) v_t^T     [D', E]
//! z_t = diag(exp g_t) z_{t-1} + phi(k_t)           [D']       (when normalised)
//! o_t = scale * S_t^T phi(q_t)                     (not normalised)
//! o_t = scale * S_t^T phi(q_t) / (scale * z_t . phi(q_t) + norm_eps)
//! ```
//!
//! Rule `linear` has no g. Under `gated` g is a log decay, 0 or less, one a key head or one a channel of phi(k): RetNet,
//! GLA, simple GLA and Mamba-2's matrix form are of this kind. A decay of minus infinity forgets everything before.
//!
//! The delta rules write what the state does not answer yet: with `S'` the state before, under `gated-delta` already
//! decayed by g,
//!
//! ```text
//! S_t = S' + beta_t k_t (v_t - S'^T k_t)^T         [D, E]
//! ```
//!
//! beta is one a key head, of any size: 1 overwrites what a key of unit length stood for, 0 writes nothing, 2 reflects. They
//! take q and k as they are, without a map or a normaliser. Source: DeltaNet (arXiv 2406.06484), Gated DeltaNet (arXiv
//! 2412.06464) and, with a decay a channel, Kimi Delta Attention (arXiv 2510.26692); update rules `delta` and
//! `gated_delta` of ONNX LinearAttention.
//!
//! The read follows the write at the same step, so token t sees itself. Without the causal mask every query reads the
//! last state. Source: Katharopoulos et al., "Transformers are RNNs" (arXiv 2006.16236), equations 9 to 12, with
//! `phi(x) = elu(x) + 1` (equation 7). With `identity` and no normaliser they are the update rules `linear` and `gated` of
//! ONNX LinearAttention, whose state layout this shares.
//!
//! Cost: `4 D' E` flops a token and head, `6 D E` under the delta rules, `8 D' E` where two passes are needed, and `2 D F` for
//! random features; state `D' (E + 1)` floats a key head, `D' E` without a normaliser. D' is the width of the features, D for
//! maps of single elements.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod delta;
#[cfg(feature = "cpu")]
mod delta_cpu;
pub mod layout;
mod maps;
mod reference;

use super::{
    AxisDefault, Causality, Cost, Definition, Domain, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv,
    Request, Rows, TensorSpec, qkv,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Part, Shape, Slot, Tensor, TensorMap};
use maps::OMEGA;

pub use maps::FeatureMap;

const NAME: &str = "linear";

/// The largest head dimension, of keys and of values.
pub const MAX_DIM: usize = 256;

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "linear attention: a state of key features times values, read by query features",
    inputs: &[qkv::INPUTS[0], qkv::INPUTS[1], qkv::INPUTS[2], G, BETA, OMEGA],
    outputs: &[qkv::OUTPUT],
    state: &[
        TensorSpec::state("state", "B G D' E"),
        TensorSpec::state("norm", "B G D'").drawn(Draw::Positive),
        maps::LOG_SCALE,
        maps::POSITION,
    ],
    axes: &[
        qkv::AXES[0],
        qkv::AXES[1],
        qkv::AXES[2],
        qkv::AXES[3],
        qkv::AXES[4],
        qkv::AXES[5],
        qkv::AXES[6],
        ("F", AxisDefault::Length(maps::DEFAULT_FEATURES)),
    ],
    flags: &[
        Flag {
            name: "rule",
            kind: FlagKind::Choice(&["linear", "gated", "delta", "gated-delta"]),
            help: "update rule of the state (linear)",
        },
        Flag {
            name: "feature-map",
            kind: FlagKind::Choice(&["elu1", "relu", "identity", "performer", "performer-relu", "cosformer"]),
            help: "map applied to q and k (elu1; identity unless the rule is linear)",
        },
        Flag { name: "features", kind: FlagKind::Count, help: "random features F (those of omega, else 256)" },
        Flag {
            name: "max-len",
            kind: FlagKind::Count,
            help: "tokens over which weights of cosformer fade to nothing (N; no default with a state)",
        },
        Flag {
            name: "normalize",
            kind: FlagKind::Switch,
            help: "divide by the sum of weights (on for rule linear, off for others)",
        },
        Flag { name: "scale", kind: FlagKind::Number, help: "factor of the scores (1 if normalised, else 1/sqrt D)" },
        Flag { name: "norm-eps", kind: FlagKind::Number, help: "added to the denominator (1e-6; 0 for performer)" },
    ],
    causal: Causality::Both,
    recurrent: true,
    complexity: "N D' E",
    usage,
    configure,
    cases: cases::cases,
};

/// Log decay a head; with one more axis, a channel of the features.
const G: TensorSpec = TensorSpec::sequence("g", "B G N")
    .or_wide("g.D", "D")
    .optional()
    .of(Domain::LogDecay)
    .drawn(Draw::Shaped(log_decays));

/// How much of what the state answers wrongly a token puts right.
const BETA: TensorSpec = TensorSpec::sequence("beta", "B G N").optional().drawn(Draw::Shaped(strengths));

/// Above 0 and so small that keys drawn of up to [`MAX_DIM`] normal components, which are not of unit length, do not make the
/// state grow: `beta |k|^2` stays below 2.
fn strengths(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = 0.006 / (1.0 + (-1.7 * *x).exp()));
}

/// 0 or less: those of heads that halve within some tens of tokens, as trained ones do.
fn log_decays(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = -0.05 * x.abs());
}

/// Update rule of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Writes add up.
    Linear,
    /// The state decays before each write, by exp(g).
    Gated(Gate),
    /// Writes put right what the state answers to the key.
    Delta,
    /// The state decays by exp(g), then the write puts right what it still answers.
    GatedDelta(Gate),
}

impl Rule {
    /// Name as a flag: `gated`.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Linear => "linear",
            Rule::Gated(_) => "gated",
            Rule::Delta => "delta",
            Rule::GatedDelta(_) => "gated-delta",
        }
    }

    /// What shares a decay, where the state decays.
    pub const fn gate(self) -> Option<Gate> {
        match self {
            Rule::Linear | Rule::Delta => None,
            Rule::Gated(gate) | Rule::GatedDelta(gate) => Some(gate),
        }
    }

    /// Whether writes put right what the state answers.
    pub const fn is_delta(self) -> bool {
        matches!(self, Rule::Delta | Rule::GatedDelta(_))
    }
}

/// What shares a decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// All channels of a key head: g is `[B, G, N]`.
    Head,
    /// Each channel has its own: g is `[B, G, N, D']`.
    Channel,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order. D and E are 1 to [`MAX_DIM`]; M equals N when causal.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to i.
    pub causal: bool,
    /// Update rule.
    pub rule: Rule,
    /// Feature map.
    pub feature_map: FeatureMap,
    /// F: random features of a map that has some.
    pub features: usize,
    /// Whether every key head has random projections of its own.
    pub omega_per_head: bool,
    /// Tokens over which cosformer's weights fade to nothing; `None`: as many as there are queries or keys. Needed with
    /// `carry`.
    pub max_len: Option<usize>,
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
            rule: Rule::Linear,
            feature_map: FeatureMap::Elu1,
            features: maps::DEFAULT_FEATURES,
            omega_per_head: false,
            max_len: None,
            normalize: true,
            scale: None,
            norm_eps: 1e-6,
            segment: None,
            carry: false,
            decode: false,
        }
    }

    /// With this feature map, and what is added to the denominator by default with it.
    pub fn map(self, feature_map: FeatureMap) -> Self {
        Self { feature_map, norm_eps: if feature_map == FeatureMap::Performer { 0.0 } else { 1e-6 }, ..self }
    }

    /// Under this rule, with the feature map and normaliser that are its defaults.
    pub fn rule(self, rule: Rule) -> Self {
        let linear = rule == Rule::Linear;
        let feature_map = if linear { FeatureMap::Elu1 } else { FeatureMap::Identity };
        Self { rule, feature_map, normalize: linear, ..self }
    }

    /// The log decays, `[B, G, N]` or `[B, G, N, D']` in the layout of the configuration; `None` without any.
    pub fn gate_slot(&self) -> Option<Slot> {
        let Qkv { batch, kv_heads, keys, dtype, layout, .. } = self.qkv;
        let gate = self.rule.gate()?;
        let whole = layout.shape(batch, kv_heads, keys, self.width());
        let shape = Shape::from(&whole.dims()[..if gate == Gate::Head { 3 } else { 4 }]);
        Some(Slot::plain("g", Access::Read, dtype, shape))
    }

    /// Strengths of the delta rules, `[B, G, N]` in the layout of the configuration; `None` under other rules.
    pub fn beta_slot(&self) -> Option<Slot> {
        let Qkv { batch, kv_heads, keys, dtype, layout, .. } = self.qkv;
        let shape = Shape::from(&layout.shape(batch, kv_heads, keys, 1).dims()[..3]);
        self.rule.is_delta().then(|| Slot::plain("beta", Access::Read, dtype, shape))
    }

    /// Log decays of a token and key head.
    fn gates_each(&self) -> usize {
        match self.rule.gate() {
            None => 0,
            Some(Gate::Head) => 1,
            Some(Gate::Channel) => self.width(),
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
        self.validate_map()?;
        super::check_walk(NAME, queries, keys, self.causal, self.carry, self.decode, self.segment)?;
        if self.rule != Rule::Linear && !self.causal {
            let expected = format!("the causal form under rule {}", self.rule.name());
            return Err(Error::setting(NAME, "causal", expected, "the non-causal one"));
        }
        if self.rule.is_delta() && self.feature_map != FeatureMap::Identity {
            let expected = format!("identity under rule {}, which takes q and k as given", self.rule.name());
            return Err(Error::setting(NAME, "feature_map", expected, self.feature_map.name()));
        }
        if self.rule.is_delta() && self.normalize {
            let expected = format!("none under rule {}, whose weights may sum to nothing", self.rule.name());
            return Err(Error::setting(NAME, "normalize", expected, "a normaliser"));
        }
        qkv::check_scale(NAME, self.effective_scale())?;
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps.to_string()));
        }
        check_memory(NAME, &self.slots())
    }

    /// The packed state: `state [B, G, D', E]` and, when normalised, `norm [B, G, D']`, with their offsets; behind them
    /// under performer `log_scale [B, G]`, under cosformer `position [1]`, of which every key head has a copy. Its length in elements is [`Slot::checked_count`].
    pub fn state_slot(&self) -> Slot {
        let state = [self.qkv.batch, self.qkv.kv_heads, self.width(), self.qkv.dim_v];
        let mut parts = vec![Part::new("state", state, DType::F32)];
        if self.normalize {
            parts.push(Part::new("norm", &state[..3], DType::F32));
        }
        parts.extend(self.beside_sums());
        pack::placed("state", Access::Update, DType::F32, parts)
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        slots.extend(self.gate_slot());
        slots.extend(self.beta_slot());
        slots.extend(self.omega_slot());
        if self.carry {
            slots.push(self.state_slot());
        }
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        if self.rule.is_delta() { delta::program(self, caps) } else { layout::program(self, caps) }
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        self.validate()?;
        check_inputs(NAME, &self.slots(), tensors)?;
        Ok(if self.rule.is_delta() { delta_cpu::run(self, tensors) } else { cpu::run(self, tensors) })
    }

    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String {
        if self.rule.is_delta() { delta_cpu::variant(self) } else { cpu::variant(self) }
    }

    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition {
        match precision {
            Precision::F32 => reference::outputs::<f32>(self, tensors, rows),
            Precision::F64 => reference::outputs::<f64>(self, tensors, rows),
        }
    }

    fn draw(&self, tensor: &str) -> Option<Draw> {
        (tensor == OMEGA.name).then(|| self.omega_draw())
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
    /// Log decays, `[B, G, N]` or `[B, G, N, D']`; given if and only if [`Rule::gate`] is.
    pub g: Option<&'a Tensor>,
    /// Strengths, `[B, G, N]`; given if and only if [`Rule::is_delta`].
    pub beta: Option<&'a Tensor>,
    /// Random projections, `[F, D]` or `[G, F, D]`; given if and only if the feature map has some.
    pub omega: Option<&'a Tensor>,
    /// State and norm in one buffer; given if and only if [`Config::carry`].
    pub state: Option<&'a Tensor>,
}

impl<'a> Tensors<'a> {
    /// Of rule `linear`, without a state.
    pub fn new(q: &'a Tensor, k: &'a Tensor, v: &'a Tensor, o: &'a Tensor) -> Self {
        Self { q, k, v, o, g: None, beta: None, omega: None, state: None }
    }
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let mut named = vec![("q", tensors.q), ("k", tensors.k), ("v", tensors.v), ("o", tensors.o)];
    named.extend(tensors.g.map(|g| ("g", g)));
    named.extend(tensors.beta.map(|beta| ("beta", beta)));
    named.extend(tensors.omega.map(|omega| ("omega", omega)));
    named.extend(tensors.state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

fn usage(flags: &Flags) -> Result<(), Error> {
    let rule = flags.word("rule").unwrap_or("linear");
    let (linear, delta) = (rule == "linear", rule == "delta" || rule == "gated-delta");
    if !(linear || delta || rule == "gated") {
        let expected = "linear, gated, delta or gated-delta";
        return Err(Error::Usage(format!("{NAME}: --rule: expected {expected}, found `{rule}`")));
    }
    if !linear && flags.switch("causal") == Some(false) {
        return Err(Error::Usage(format!("{NAME}: --no-causal: expected the causal form under --rule {rule}")));
    }
    let map = flags.word("feature-map").map(FeatureMap::parse).transpose()?;
    if let Some(map) = map.filter(|map| delta && *map != FeatureMap::Identity) {
        let expected = format!("identity under --rule {rule}, which takes q and k as given");
        return Err(Error::Usage(format!("{NAME}: --feature-map: expected {expected}, found `{}`", map.name())));
    }
    if delta && flags.switch("normalize") == Some(true) {
        return Err(Error::Usage(format!(
            "{NAME}: --normalize: expected none under --rule {rule}, which has no normaliser"
        )));
    }
    if delta && flags.word("norm-eps").is_some() {
        return Err(Error::Usage(format!(
            "{NAME}: --norm-eps: expected none under --rule {rule}, which has no normaliser"
        )));
    }
    maps::usage(flags)?;
    flags.number(NAME, "scale")?;
    flags.count(NAME, "segment")?;
    if flags.number(NAME, "norm-eps")?.is_some_and(|eps| eps < 0.0) {
        return Err(Error::Usage(format!("{NAME}: --norm-eps: expected 0 or more, found a negative number")));
    }
    super::check_decode_flags(NAME, flags)?;
    if !flags.switch("normalize").unwrap_or(linear) && flags.word("norm-eps").is_some() {
        let without = if linear { "that --no-normalize turns off" } else { "that --normalize turns on" };
        return Err(Error::Usage(format!("{NAME}: --norm-eps needs the normaliser {without}")));
    }
    Ok(())
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let qkv = Qkv::of(&OP, request)?;
    let mut config = Config::new(qkv).rule(rule(request)?);
    config.set_map(request)?;
    check_gates(request, &config)?;
    config.carry = request.carry;
    config.causal = flags.switch("causal").unwrap_or(true);
    config.decode = flags.switch("decode").unwrap_or(false);
    config.segment = flags.count(NAME, "segment")?;
    config.normalize = flags.switch("normalize").unwrap_or(config.normalize);
    config.scale = flags.number(NAME, "scale")?;
    if let Some(eps) = flags.number(NAME, "norm-eps")? {
        config.norm_eps = eps;
    }
    config.validate()?;
    Ok(Box::new(config))
}

/// The rule that flags and the tensors `g` and `beta` agree on.
fn rule(request: &Request<'_>) -> Result<Rule, Error> {
    let word = request.flags.word("rule").unwrap_or("linear");
    let (gated, delta) = (word.starts_with("gated"), word.ends_with("delta"));
    let none_of = |name: &'static str| match request.shape(name) {
        Some(shape) => Err(Error::tensor(NAME, name, format!("none under --rule {word}"), shape.to_string())),
        None => Ok(()),
    };
    let gate = if gated {
        Some(if request.required(NAME, &G)?.rank() == 3 { Gate::Head } else { Gate::Channel })
    } else {
        none_of("g")?;
        None
    };
    if delta {
        request.required(NAME, &BETA)?;
    } else {
        none_of("beta")?;
    }
    Ok(match (gate, delta) {
        (None, false) => Rule::Linear,
        (Some(gate), false) => Rule::Gated(gate),
        (None, true) => Rule::Delta,
        (Some(gate), true) => Rule::GatedDelta(gate),
    })
}

/// Refuses log decays and strengths of another shape than the features of the keys have.
fn check_gates(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    for part in config.gate_slot().iter().chain(&config.beta_slot()).flat_map(|slot| &slot.parts) {
        if let Some(shape) = request.shape(part.name).filter(|shape| **shape != part.shape) {
            let whose = if config.width() == config.qkv.dim_k { "k has" } else { "the features of k have" };
            return Err(Error::tensor(NAME, part.name, format!("{} as {whose}", part.shape), shape.to_string()));
        }
    }
    Ok(())
}
