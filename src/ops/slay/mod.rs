//! SLAY: linear attention with features of the spherical Yat kernel.
//!
//! For unit vectors u = x / max(|x|, 1e-12) the kernel `(u_q . u_k)^2 / (C - 2 u_q . u_k)`, C = 2 + epsilon, is an integral
//! over s of `e^{-C s} (u_q . u_k)^2 e^{2 s u_q . u_k}`. R nodes of Gauss-Laguerre quadrature, with s_r = t_r / C and
//! w_r = alpha_r / C, a polynomial map A for the square and positive random features for the exponential make it
//!
//! ```text
//! Psi_{r,p,f}(u) = A_p(u) E_{r,f}(u)                                       m = R P F features, in the order (r, p, f)
//! E_{r,f}(u)     = sqrt(w_r / F) exp(sqrt(2 s_r) omega_{r,f} . u - s_r)
//! A_p(u)         = (a_p . u)^2 / sqrt(P)                                   anchor: unit vectors a_p, the default
//! A_{ij}(u)      = u_i u_j (i = j), sqrt(2) u_i u_j (i < j)                exact: D (D + 1) / 2 of them, j fastest
//! further maps: see [`Poly`]
//!
//! S_t = S_{t-1} + Psi(k_t) v_t^T      [m, E]
//! z_t = z_{t-1} + Psi(k_t)            [m]
//! o_t = S_t^T Psi(q_t) / (z_t . Psi(q_t) + norm_eps)
//! ```
//!
//! with one division after the sum over nodes. Anchors are shared by all heads, omega is a key head's own. Source: arXiv
//! 2602.04915, equations 1 to 5 and section 2.4; code azettaai/slay. The anchor map has the expectation
//! `(1 + 2 x^2) / (D (D + 2))`, not `x^2`: `exact` is the faithful one.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod poly;
pub mod quadrature;
mod reference;

use super::{
    AxisDefault, Causality, Cost, Definition, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv, Request, Rows,
    TensorSpec, qkv,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Shape, Slot, Tensor, TensorMap};
use poly::{ANCHORS, MOST_WHITENED, SIGNS, SKETCHES, WORDS};

pub use poly::Poly;

const NAME: &str = "slay";

/// The largest number of nodes.
pub const MAX_NODES: usize = 32;

const OMEGA: TensorSpec = TensorSpec::weight("omega", "R G F D");

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "linear attention with features of the spherical Yat kernel",
    inputs: &[qkv::INPUTS[0], qkv::INPUTS[1], qkv::INPUTS[2], ANCHORS, OMEGA, SIGNS, SKETCHES],
    outputs: &[qkv::OUTPUT],
    state: &[TensorSpec::state("state", "B G m E"), TensorSpec::state("norm", "B G m").drawn(Draw::Positive)],
    axes: &[
        qkv::AXES[0],
        qkv::AXES[1],
        qkv::AXES[2],
        qkv::AXES[3],
        qkv::AXES[4],
        qkv::AXES[5],
        qkv::AXES[6],
        ("R", AxisDefault::Length(2)),
        ("P", AxisDefault::Length(8)),
        ("F", AxisDefault::Length(16)),
    ],
    flags: &[
        Flag { name: "nodes", kind: FlagKind::Count, help: "nodes R of the quadrature (that of omega, else 2)" },
        Flag { name: "features", kind: FlagKind::Count, help: "random features F a node (those of omega, else 16)" },
        Flag { name: "anchors", kind: FlagKind::Count, help: "anchors, signs or sketches P (those given, else 8)" },
        Flag { name: "poly", kind: FlagKind::Choice(WORDS), help: "map for the square of the kernel (anchor)" },
        Flag { name: "epsilon", kind: FlagKind::Number, help: "of the kernel (1e-3)" },
        Flag { name: "norm-eps", kind: FlagKind::Number, help: "added to the denominator (1e-6)" },
    ],
    causal: Causality::Both,
    recurrent: true,
    complexity: "N m E, m = R P F",
    usage,
    configure,
    cases: cases::cases,
};

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order. M equals N when causal.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to i.
    pub causal: bool,
    /// R: nodes of the quadrature, at most [`MAX_NODES`].
    pub nodes: usize,
    /// F: random features a node.
    pub features: usize,
    /// P: features of the map for the square where these are chosen: rows of anchors, of signs, of sketches.
    pub anchors: usize,
    /// The map for the square.
    pub poly: Poly,
    /// Of the kernel: C = 2 + epsilon.
    pub epsilon: f32,
    /// Added to the denominator.
    pub norm_eps: f32,
    /// Tokens in a segment of the scan; `None`: the plan chooses. As in `linear`.
    pub segment: Option<usize>,
    /// Whether the state is read before and written after.
    pub carry: bool,
    /// The one-token form: one dispatch, needs N = 1, causal and `carry`.
    pub decode: bool,
}

impl Config {
    /// Causal, two nodes, eight anchors, sixteen features, without a carried state.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            causal: true,
            nodes: 2,
            features: 16,
            anchors: 8,
            poly: Poly::Anchor,
            epsilon: 1e-3,
            norm_eps: 1e-6,
            segment: None,
            carry: false,
            decode: false,
        }
    }

    /// Features of the polynomial map.
    pub fn poly_width(&self) -> usize {
        match self.poly {
            Poly::Exact => self.qkv.dim_k * (self.qkv.dim_k + 1) / 2,
            Poly::Laplace | Poly::Hadamard => 1,
            Poly::Anchor | Poly::Nystrom | Poly::Maclaurin | Poly::TensorSketch => self.anchors,
        }
    }

    /// m: rows of the state.
    pub fn width(&self) -> usize {
        self.nodes.saturating_mul(self.poly_width()).saturating_mul(self.features)
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { queries, keys, .. } = self.qkv;
        self.qkv.validate(NAME)?;
        let most_anchors = if self.poly == Poly::Nystrom { MOST_WHITENED } else { 1 << 20 };
        for (setting, value, most) in [
            ("nodes", self.nodes, MAX_NODES),
            ("features", self.features, 1 << 20),
            ("anchors", self.anchors, most_anchors),
        ] {
            if value == 0 || value > most {
                return Err(Error::setting(NAME, setting, format!("1 to {most}"), value.to_string()));
            }
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::setting(NAME, "epsilon", "a finite number over 0", self.epsilon.to_string()));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps.to_string()));
        }
        super::check_walk(NAME, queries, keys, self.causal, self.carry, self.decode, self.segment)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: what the map for the square takes, `anchors [P, D]`, `signs [2, P, D]`, `sketches [2, P, D]` or
    /// nothing, and `omega [R, G, F, D]`.
    pub fn weights_slot(&self) -> Slot {
        let (d, g) = (self.qkv.dim_k, self.qkv.kv_heads);
        let mut parts = Vec::new();
        if let Some(spec) = self.poly.weight() {
            let two = self.poly.weight_rows(1) == 2;
            parts.push((spec.name, if two { [2, self.anchors, d].into() } else { [self.anchors, d].into() }));
        }
        parts.push(("omega", [self.nodes, g, self.features, d].into()));
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The packed state: `state [B, G, m, E]` and `norm [B, G, m]`.
    pub fn state_slot(&self) -> Slot {
        let (b, g, m, e) = (self.qkv.batch, self.qkv.kv_heads, self.width(), self.qkv.dim_v);
        pack::slot("state", Access::Update, DType::F32, &[("state", [b, g, m, e].into()), ("norm", [b, g, m].into())])
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        slots.push(self.weights_slot());
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

/// Inputs on the GPU, with the shapes of the module's formula.
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
    /// Anchors and omega in one buffer: see [`Config::weights_slot`].
    pub weights: &'a Tensor,
    /// State and norm in one buffer; given if and only if [`Config::carry`].
    pub state: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { q, k, v, o, weights, state } = tensors;
    let mut named = vec![("q", q), ("k", k), ("v", v), ("o", o), ("weights", weights)];
    named.extend(state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

fn usage(flags: &Flags) -> Result<(), Error> {
    for name in ["nodes", "features", "anchors", "segment"] {
        flags.count(NAME, name)?;
    }
    if flags.count(NAME, "nodes")?.is_some_and(|nodes| nodes > MAX_NODES) {
        return Err(Error::Usage(format!("{NAME}: --nodes: expected 1 to {MAX_NODES}, found more")));
    }
    if flags.number(NAME, "epsilon")?.is_some_and(|epsilon| epsilon <= 0.0) {
        return Err(Error::Usage(format!("{NAME}: --epsilon: expected a number over 0, found 0 or less")));
    }
    if flags.number(NAME, "norm-eps")?.is_some_and(|eps| eps < 0.0) {
        return Err(Error::Usage(format!("{NAME}: --norm-eps: expected 0 or more, found a negative number")));
    }
    let poly = flags.word("poly").and_then(Poly::named).unwrap_or(Poly::Anchor);
    if poly.weight().is_none() && flags.word("anchors").is_some() {
        let name = poly.name();
        return Err(Error::Usage(format!("{NAME}: --anchors: expected none with --poly {name}, which has no anchors")));
    }
    super::check_decode_flags(NAME, flags)
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let qkv = Qkv::of(&OP, request)?;
    let mut config = Config::new(qkv);
    config.poly = flags.word("poly").and_then(Poly::named).unwrap_or(config.poly);
    let dim = format!("dim D = {} as in q", qkv.dim_k);
    let counts = |name: &str| flags.count(NAME, name);
    let [mut nodes, mut features, mut anchors] = [counts("nodes")?, counts("features")?, counts("anchors")?];
    let agree = |tensor: &str, shape: &Shape, axis: usize, flag: &str, given: &mut Option<usize>| {
        let found = shape.dims()[axis];
        match given {
            Some(wanted) if *wanted != found => {
                Err(Error::tensor(NAME, tensor, format!("{wanted} as in --{flag}"), shape.to_string()))
            }
            _ => {
                *given = Some(found);
                Ok(())
            }
        }
    };
    for spec in [&ANCHORS, &SIGNS, &SKETCHES] {
        let Some(shape) = request.optional(NAME, spec)? else { continue };
        if config.poly.weight().is_none_or(|own| own.name != spec.name) {
            let expected = format!("none with --poly {}", config.poly.name());
            return Err(Error::tensor(NAME, spec.name, expected, shape.to_string()));
        }
        let dims = shape.dims();
        if dims[dims.len() - 1] != qkv.dim_k {
            return Err(Error::tensor(NAME, spec.name, dim, shape.to_string()));
        }
        if dims.len() == 3 && dims[0] != 2 {
            return Err(Error::tensor(NAME, spec.name, "two of [P, D]", shape.to_string()));
        }
        agree(spec.name, shape, dims.len() - 2, "anchors", &mut anchors)?;
    }
    if let Some(shape) = request.optional(NAME, &OMEGA)? {
        let dims = shape.dims();
        if dims[3] != qkv.dim_k {
            return Err(Error::tensor(NAME, "omega", dim, shape.to_string()));
        }
        if dims[1] != qkv.kv_heads {
            let expected = format!("G = {} key heads as in k", qkv.kv_heads);
            return Err(Error::tensor(NAME, "omega", expected, shape.to_string()));
        }
        agree("omega", shape, 0, "nodes", &mut nodes)?;
        agree("omega", shape, 2, "features", &mut features)?;
    }
    config.nodes = nodes.unwrap_or(config.nodes);
    config.features = features.unwrap_or(config.features);
    config.anchors = anchors.unwrap_or(config.anchors);
    config.carry = request.carry;
    config.causal = flags.switch("causal").unwrap_or(true);
    config.decode = flags.switch("decode").unwrap_or(false);
    config.segment = flags.count(NAME, "segment")?;
    config.epsilon = flags.number(NAME, "epsilon")?.unwrap_or(config.epsilon);
    config.norm_eps = flags.number(NAME, "norm-eps")?.unwrap_or(config.norm_eps);
    config.validate()?;
    Ok(Box::new(config))
}
