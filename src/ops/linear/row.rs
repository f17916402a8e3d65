//! The row of `linear` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::maps::{DEFAULT_FEATURES, FeatureMap};
use super::{Config, Decays, Gate, NAME, Rule, cases, summary};
use crate::catalog;
use crate::catalog::domain::Domain;
use crate::catalog::flags::{Flag, FlagKind, Flags};
use crate::catalog::recurrent::{CU_SEQLENS, DIRECTION, SEQUENCES, STATE_LAYOUT, log_rates, short_steps};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::Shape;
use crate::verify::float;

/// Axes of its tensors.
const AXES: [(&str, AxisDefault); 10] =
    catalog::qkv::axes_and([catalog::qkv::VALUE_HEADS, ("F", AxisDefault::Length(DEFAULT_FEATURES)), SEQUENCES]);

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "linear attention: a state of key features times values, read by query features",
    inputs: &[
        catalog::qkv::INPUTS[0],
        catalog::qkv::INPUTS[1],
        catalog::qkv::INPUTS[2].per_value_head(),
        G,
        BETA,
        OMEGA,
        A,
        A_LOG,
        DT_BIAS,
        CU_SEQLENS,
    ],
    outputs: &[catalog::qkv::OUTPUT],
    state: &[
        TensorSpec::state("state", "B G D' E"),
        TensorSpec::state("norm", "B G D'").drawn(Draw::Positive),
        LOG_SCALE,
        POSITION,
    ],
    axes: &AXES,
    flags: &[
        Flag {
            name: "rule",
            kind: FlagKind::Choice(&["linear", "gated", "delta", "gated-delta"]),
            help: "Update rule of the state [default: linear]",
        },
        Flag {
            name: "feature-map",
            kind: FlagKind::Choice(&["elu1", "relu", "identity", "performer", "performer-relu", "cosformer"]),
            help: "Map applied to q and k [default: elu1 for rule linear, else identity]",
        },
        Flag {
            name: "features",
            kind: FlagKind::Count,
            help: "Number of random features F [default: that of omega, else 256]",
        },
        Flag {
            name: "max-len",
            kind: FlagKind::Count,
            help: "cosformer horizon in tokens (default: N; required with --state-in/--state-out)",
        },
        Flag {
            name: "normalize",
            kind: FlagKind::Switch,
            help: "Divide by the sum of weights [default: on for rule linear, else off]",
        },
        Flag {
            name: "scale",
            kind: FlagKind::Number,
            help: "Factor of the scores [default: 1 if normalised, else 1/sqrt D]",
        },
        Flag {
            name: "norm-eps",
            kind: FlagKind::Number,
            help: "Number added to the denominator [default: 1e-6; 0 for performer]",
        },
        Flag {
            name: "l2norm",
            kind: FlagKind::Switch,
            help: "Divide q and k by sqrt(sum of squares + 1e-6) first [default: off]",
        },
        Flag {
            name: "beta-sigmoid",
            kind: FlagKind::Switch,
            help: "Take the sigmoid of beta (delta rules) [default: off]",
        },
        DIRECTION,
        STATE_LAYOUT,
    ],
    causal: Causality::Both,
    recurrent: true,
    rows_apart: false,
    complexity: "N D' E",
    summaries: Some(summary::folding),
    configure,
    cases: cases::cases,
};

/// Log decays per head; with one more axis, per channel of the features; with the heads alone, the same for all tokens.
const G: TensorSpec = TensorSpec::sequence("g", "B G N")
    .or_forms(&[("g.D", "B G N D"), ("g.G", "G")])
    .per_value_head()
    .optional()
    .of(Domain::LogDecay)
    .drawn(Draw::Shaped(log_decays));

/// Strength of the correction that each token writes (delta rules).
const BETA: TensorSpec = TensorSpec::sequence("beta", "B G N")
    .or_forms(&[("beta.N", "B 1 N")])
    .per_value_head()
    .optional()
    .drawn(Draw::Shaped(strengths));

/// The input of computed log decays, per token and head; `a_log` and `dt_bias` are their weights.
const A: TensorSpec = TensorSpec::sequence("a", "B G N").per_value_head().optional();

/// Logarithm of the rate of the decay, without its sign.
const A_LOG: TensorSpec =
    TensorSpec::weight("a_log", "G").per_value_head().of(Domain::Logarithm).drawn(Draw::Shaped(log_rates));

const DT_BIAS: TensorSpec = TensorSpec::weight("dt_bias", "G").per_value_head().drawn(Draw::Shaped(short_steps));

/// Draws strengths above 0. They are so small that random keys of up to 256 normal elements,
/// which do not have unit length, do not make the state grow: `beta |k|^2` stays below 2.
fn strengths(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = 0.006 / (1.0 + (-1.7 * *x).exp()));
}

/// Draws log decays of 0 or less that halve a state within some tens of tokens, as those of trained models do.
fn log_decays(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = -0.05 * x.abs());
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    let qkv = catalog::qkv::of_shared(&OP, request)?;
    let mut config = Config::new(qkv).rule(rule(request)?);
    config.set_map(request)?;
    config.set_gates(request)?;
    config.mode = request.mode(NAME)?;
    config.normalize = flags.switch("normalize");
    config.scale = flags.number(NAME, "scale")?;
    config.norm_eps = flags.number(NAME, "norm-eps")?;
    if flags.word("norm-eps").is_some() && !config.normalize() {
        return Err(Error::Usage(format!("{NAME}: --norm-eps needs the normaliser, which is off")));
    }
    config.validate()?;
    Ok(Box::new(config))
}

/// The rule that the flags ask for. The tensors `g` and `beta` must be given as this rule requires.
fn rule(request: &Request<'_>) -> Result<Rule, Error> {
    let word = request.flags.word("rule").unwrap_or("linear");
    let (gated, delta) = (word.starts_with("gated"), word.ends_with("delta"));
    let none_of = |name: &'static str| match request.shape(name) {
        Some(shape) => Err(Error::tensor(NAME, name, format!("none under --rule {word}"), shape.to_string())),
        None => Ok(()),
    };
    let gate = if !gated {
        ["g", "a", "a_log", "dt_bias"].into_iter().try_for_each(none_of)?;
        None
    } else if request.optional(NAME, &A)?.is_some() {
        Some(Gate::Head)
    } else {
        let or_a = TensorSpec { alternative: Some("a"), ..G };
        Some(if request.required(NAME, &or_a)?.rank() == 4 { Gate::Channel } else { Gate::Head })
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

/// Rows of random projections, shared by all key heads, or with one more axis in front, one set per key head.
const OMEGA: TensorSpec =
    TensorSpec { any_rank: true, ..TensorSpec::weight("omega", "F D").drawn(Draw::ByFlags(projections)) };

/// The distribution of omega under the feature map that the flags name.
fn projections(flags: &Flags) -> Draw {
    Draw::Shaped(if flags.word("feature-map") == Some("performer") { orthogonal } else { over_root })
}

/// Logarithm of the scale of the state: the true state is `state * e^log_scale`.
pub(super) const LOG_SCALE: TensorSpec = TensorSpec::state("log_scale", "B G");

/// Number of tokens before those of a run. Cosformer's angles continue from there.
pub(super) const POSITION: TensorSpec = TensorSpec::state("position", "1").drawn(Draw::Shaped(far));

/// Draws a position some tokens into a sequence.
fn far(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = (x.abs() * 1e4).floor());
}

/// Divides standard normal rows by the square root of D.
fn over_root(shape: &Shape, values: &mut [f32]) {
    let root = (shape.dims().last().copied().unwrap_or(1) as f32).sqrt();
    values.iter_mut().for_each(|x| *x /= root);
}

/// Makes standard normal rows orthogonal, in blocks of D rows. Each row keeps its length, which is independent of the
/// new directions.
fn orthogonal(shape: &Shape, values: &mut [f32]) {
    let [.., rows, d] = *shape.dims() else { return };
    for head in values.chunks_exact_mut(rows * d) {
        for block in head.chunks_mut(d * d) {
            let mut units: Vec<Vec<f64>> = Vec::new();
            for row in block.chunks_exact_mut(d) {
                let mut x: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
                let norm = |x: &[f64]| float::dot(x, x).sqrt();
                let length = norm(&x);
                // Twice, because one pass leaves rounding errors if rows are nearly parallel.
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

impl Config {
    /// Sets how decays and strengths are given, and refuses tensors whose shapes do not match k and v.
    fn set_gates(&mut self, request: &Request<'_>) -> Result<(), Error> {
        let given = |name: &str| request.shape(name);
        let beside = |name: &'static str, other: &str| match given(name) {
            Some(shape) => Err(Error::tensor(NAME, name, format!("none {other}"), shape.to_string())),
            None => Ok(()),
        };
        if given("a").is_some() {
            beside("g", "beside `a`, which takes its place")?;
            request.required(NAME, &A_LOG)?;
            self.decays = Decays::Computed { dt_bias: request.optional(NAME, &DT_BIAS)?.is_some() };
        } else {
            ["a_log", "dt_bias"].into_iter().try_for_each(|name| beside(name, "without `a`"))?;
            if given("g").is_some_and(|shape| shape.rank() == 1) {
                self.decays = Decays::Constant;
            }
        }
        self.beta_sigmoid = request.flags.switch("beta-sigmoid").unwrap_or(false);
        self.l2norm = request.flags.switch("l2norm").unwrap_or(false);
        let whole = self.beta_slot();
        self.beta_for_all_heads = true;
        let all_heads = self.beta_slot().map(|slot| slot.shape());
        self.beta_for_all_heads = whole.is_some_and(|slot| given("beta") != Some(&slot.shape()))
            && given("beta").is_some_and(|shape| Some(shape) == all_heads.as_ref());
        let slots = [self.gate_slot(), self.gate_weights_slot(), self.beta_slot()];
        for part in slots.iter().flatten().flat_map(|slot| &slot.parts) {
            if let Some(shape) = given(part.name).filter(|shape| **shape != part.shape) {
                let whose = match (self.qkv.shared > 1, self.width() == self.qkv.dim_k) {
                    (true, true) => "k and v have",
                    (true, false) => "v and the features of k have",
                    (false, true) => "k has",
                    (false, false) => "the features of k have",
                };
                return Err(Error::tensor(NAME, part.name, format!("{} as {whose}", part.shape), shape.to_string()));
            }
        }
        Ok(())
    }

    /// Sets the feature map and its settings from flags and tensors.
    fn set_map(&mut self, request: &Request<'_>) -> Result<(), Error> {
        let flags = request.flags;
        self.feature_map = flags.word("feature-map").and_then(FeatureMap::named);
        let features = flags.count(NAME, "features")?;
        if features.is_some() && !self.feature_map().projects() {
            let text = "--features needs a feature map with random features: performer or performer-relu";
            return Err(Error::Usage(format!("{NAME}: {text}")));
        }
        self.features = features.unwrap_or(self.features);
        self.max_len = flags.count(NAME, "max-len")?;
        if self.max_len.is_some() && self.feature_map() != FeatureMap::Cosformer {
            return Err(Error::Usage(format!("{NAME}: --max-len needs --feature-map cosformer")));
        }
        if self.feature_map() == FeatureMap::Cosformer && request.carry && self.max_len.is_none() {
            let text = "--feature-map cosformer needs --max-len with --state-in, --state-out or --summary-out";
            return Err(Error::Usage(format!("{NAME}: {text}, which do not say how long the sequence is")));
        }
        let Some(shape) = request.shape("omega") else { return Ok(()) };
        if !self.feature_map().projects() {
            let expected = format!("none with --feature-map {}", self.feature_map().name());
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
        let (d, g) = (self.qkv.dim_k, self.qkv.key_heads());
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
}
