//! The row of `linear` in the table of operators: tensors, flags, and how a request becomes a configuration.

use super::maps::{DEFAULT_FEATURES, FeatureMap};
use super::{Config, Gate, NAME, Rule, cases, summary};
use crate::catalog;
use crate::catalog::domain::Domain;
use crate::catalog::flags::{Flag, FlagKind, Flags};
use crate::catalog::request::Request;
use crate::catalog::spec::{AxisDefault, Causality, Draw, Op, TensorSpec};
use crate::error::Error;
use crate::operator::Operator;
use crate::tensor::Shape;
use crate::verify::float;

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "linear attention: a state of key features times values, read by query features",
    inputs: &[catalog::qkv::INPUTS[0], catalog::qkv::INPUTS[1], catalog::qkv::INPUTS[2], G, BETA, OMEGA],
    outputs: &[catalog::qkv::OUTPUT],
    state: &[
        TensorSpec::state("state", "B G D' E"),
        TensorSpec::state("norm", "B G D'").drawn(Draw::Positive),
        LOG_SCALE,
        POSITION,
    ],
    axes: &[
        catalog::qkv::AXES[0],
        catalog::qkv::AXES[1],
        catalog::qkv::AXES[2],
        catalog::qkv::AXES[3],
        catalog::qkv::AXES[4],
        catalog::qkv::AXES[5],
        catalog::qkv::AXES[6],
        ("F", AxisDefault::Length(DEFAULT_FEATURES)),
    ],
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
    ],
    causal: Causality::Both,
    recurrent: true,
    rows_apart: false,
    complexity: "N D' E",
    summaries: Some(summary::folding),
    configure,
    cases: cases::cases,
};

/// Log decays per head; with one more axis, per channel of the features.
const G: TensorSpec = TensorSpec::sequence("g", "B G N")
    .or_axis("g.D", "D")
    .optional()
    .of(Domain::LogDecay)
    .drawn(Draw::Shaped(log_decays));

/// Strength of the correction that each token writes (delta rules).
const BETA: TensorSpec = TensorSpec::sequence("beta", "B G N").optional().drawn(Draw::Shaped(strengths));

/// Draws strengths above 0. They are so small that random keys of up to [`MAX_DIM`](super::MAX_DIM) normal elements,
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
    let qkv = catalog::qkv::of(&OP, request)?;
    let mut config = Config::new(qkv).rule(rule(request)?);
    config.set_map(request)?;
    check_gates(request, &config)?;
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

/// Refuses log decays and strengths whose shape does not match the features of the keys.
fn check_gates(request: &Request<'_>, config: &Config) -> Result<(), Error> {
    for part in config.gate_slot().iter().chain(&config.beta_slot()).flat_map(|slot| &slot.parts) {
        if let Some(shape) = request.shape(part.name).filter(|shape| **shape != part.shape) {
            let whose = if config.width() == config.qkv.dim_k { "k has" } else { "the features of k have" };
            return Err(Error::tensor(NAME, part.name, format!("{} as {whose}", part.shape), shape.to_string()));
        }
    }
    Ok(())
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
}
