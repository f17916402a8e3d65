//! Attention with the Yat kernel, exact: queries and keys weigh more that are both aligned and near each other.
//!
//! For every batch and head, with key head `h / (H / G)` read by query head `h`:
//!
//! ```text
//! s_ij = x^2 / (2 + epsilon - 2 x)                       spherical: x = q_i . k_j, each over its length
//! s_ij = (q_i . k_j)^2 / (|q_i - k_j|^2 + epsilon)       euclidean
//!
//! o_i = sum_j s_ij v_j / (sum_j s_ij + norm_eps)         norm kernel
//! o_i = sum_j softmax_j(s_ij) v_j                        norm softmax
//! ```
//!
//! over the keys j that query i sees: all; when causal those with `j <= i + M - N` (aligned at the end, as in a cache). A
//! query that sees no key gives zeros, and so does one without a weight. Lengths are at least 1e-12, so that a zero vector
//! scores 0. The largest score is `1 / epsilon` on the sphere, of a key in the query's direction.
//!
//! Source: "SLAY: Geometry-aware spherical linearized attention with Yat-kernel" (arXiv 2602.04915), equations 1 to 5,
//! and its code, azettaai/slay. Both norms, because the two disagree: the paper divides by the sum of the kernel, of
//! which its linear form is an approximation, and so does the code's spherical baseline; the code's `Yat (Exact)`
//! baseline takes the softmax of the euclidean kernel.
//!
//! The denominator is what a rounded product leaves of two squares, little where vectors are near each other. Below a
//! thirty-second of the squares it is taken from the vectors themselves instead, which are then read again: results are
//! closer than those of the formula, which is what the error is judged by.
//!
//! Cost: `2 (D + E)` flops a query and key it sees, as softmax without its exponentials (norm softmax has them); no
//! workspace but for few queries, both forms being those of softmax (see `attend`).

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::attend::{self, Mask};
use super::{Causality, Cost, Definition, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv, Request, Rows, qkv};
use crate::error::Error;
use crate::gpu::program::Program;
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Slot, Tensor, TensorMap};

const NAME: &str = "yat";

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "exact attention with the Yat kernel, tiled: what slay approximates",
    inputs: &qkv::INPUTS,
    outputs: &[qkv::OUTPUT],
    state: &[],
    axes: &qkv::AXES,
    flags: &[
        Flag {
            name: "kernel",
            kind: FlagKind::Choice(&["spherical", "euclidean"]),
            help: "of unit vectors, or of q and k as they are (spherical)",
        },
        Flag {
            name: "norm",
            kind: FlagKind::Choice(&["kernel", "softmax"]),
            help: "divide by the sum of the kernel, or take its softmax (kernel)",
        },
        Flag { name: "epsilon", kind: FlagKind::Number, help: "added to the kernel's denominator (1e-3)" },
        Flag { name: "norm-eps", kind: FlagKind::Number, help: "added to the sum of the kernel (1e-6)" },
    ],
    causal: Causality::Both,
    recurrent: false,
    complexity: "N M (D + E)",
    usage,
    configure,
    cases: cases::cases,
};

/// What a query and a key are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// `x^2 / (2 + epsilon - 2 x)` with x the product of both over their lengths.
    Spherical,
    /// `(q . k)^2 / (|q - k|^2 + epsilon)`.
    Euclidean,
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Norm {
    /// Each over their sum and [`Config::norm_eps`].
    Kernel,
    /// Their softmax.
    Softmax,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order. Any D and E.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to i + M - N.
    pub causal: bool,
    /// The kernel.
    pub kernel: Kernel,
    /// How its values become weights.
    pub norm: Norm,
    /// Added to the kernel's denominator; above 0.
    pub epsilon: f32,
    /// Added to the sum of the kernel; 0 or more. [`Norm::Softmax`] takes none.
    pub norm_eps: f32,
}

impl Config {
    /// Causal, spherical, over the sum of the kernel.
    pub fn new(qkv: Qkv) -> Self {
        Self { qkv, causal: true, kernel: Kernel::Spherical, norm: Norm::Kernel, epsilon: 1e-3, norm_eps: 1e-6 }
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.qkv.validate(NAME)?;
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::setting(NAME, "epsilon", "a finite number above 0", self.epsilon.to_string()));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps.to_string()));
        }
        Ok(())
    }

    fn mask(&self) -> Mask {
        Mask { causal: self.causal, window: None }
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        self.qkv.slots()
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
        super::cpu::attend::variant()
    }

    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition {
        match precision {
            Precision::F32 => reference::outputs::<f32>(self, tensors, rows),
            Precision::F64 => reference::outputs::<f64>(self, tensors, rows),
        }
    }

    fn cost(&self) -> Cost {
        let cost = attend::essential(&self.qkv, self.mask());
        match self.norm {
            Norm::Kernel => Cost { exps: 0.0, ..cost },
            Norm::Softmax => cost,
        }
    }
}

/// Tensors on the GPU, with the shapes of the module's formula.
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
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    plan.bind(&[("q", tensors.q), ("k", tensors.k), ("v", tensors.v), ("o", tensors.o)], workspace)
}

fn kernel(flags: &Flags) -> Result<Kernel, Error> {
    match flags.word("kernel") {
        None | Some("spherical") => Ok(Kernel::Spherical),
        Some("euclidean") => Ok(Kernel::Euclidean),
        Some(word) => Err(Error::Usage(format!("{NAME}: --kernel: expected spherical or euclidean, found `{word}`"))),
    }
}

fn norm(flags: &Flags) -> Result<Norm, Error> {
    match flags.word("norm") {
        None | Some("kernel") => Ok(Norm::Kernel),
        Some("softmax") => Ok(Norm::Softmax),
        Some(word) => Err(Error::Usage(format!("{NAME}: --norm: expected kernel or softmax, found `{word}`"))),
    }
}

fn usage(flags: &Flags) -> Result<(), Error> {
    kernel(flags)?;
    let norm = norm(flags)?;
    if flags.number(NAME, "epsilon")?.is_some_and(|epsilon| epsilon <= 0.0) {
        let found = flags.word("epsilon").unwrap_or_default();
        return Err(Error::Usage(format!("{NAME}: --epsilon: expected a number above 0, found `{found}`")));
    }
    if flags.number(NAME, "norm-eps")?.is_some_and(|eps| eps < 0.0) {
        return Err(Error::Usage(format!("{NAME}: --norm-eps: expected 0 or more, found a negative number")));
    }
    if norm == Norm::Softmax && flags.word("norm-eps").is_some() {
        let why = "needs the sum of the kernel, which --norm softmax does not divide by";
        return Err(Error::Usage(format!("{NAME}: --norm-eps {why}")));
    }
    Ok(())
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let mut config = Config {
        causal: flags.switch("causal").unwrap_or(true),
        kernel: kernel(flags)?,
        norm: norm(flags)?,
        ..Config::new(Qkv::of(&OP, request)?)
    };
    if let Some(epsilon) = flags.number(NAME, "epsilon")? {
        config.epsilon = epsilon;
    }
    if let Some(eps) = flags.number(NAME, "norm-eps")? {
        config.norm_eps = eps;
    }
    config.validate()?;
    Ok(Box::new(config))
}
