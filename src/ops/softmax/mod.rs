//! Exact softmax attention: the yardstick, and the attention layers of hybrid models.
//!
//! For every batch and head, with key head `h / (H / G)` read by query head `h`:
//!
//! ```text
//! o_i = sum_j softmax_j(scale * q_i . k_j) v_j
//! ```
//!
//! over the keys j that query i sees: all; when causal those with `j <= i + M - N` (aligned at the end, as in a cache);
//! with a window W the last W of these. A query that sees no key gives zeros. Source: Vaswani et al., "Attention is all
//! you need" (arXiv 1706.03762), equation 1; computed tile by tile with a running maximum and sum as in Milakov and
//! Gimelshein (arXiv 1805.02867) and Dao et al. (arXiv 2205.14135), so that no N x M matrix exists anywhere.
//!
//! Values of keys that a query does not see weigh exactly zero, so that finite ones leave no trace; one that is not finite
//! may still show as NaN in queries of the same tile.
//!
//! Cost: `2 (D + E)` flops a query and key it sees; no workspace, save for few queries (eight rows a key head, or more that
//! leave the machine idle before a long cache): then keys are split over workgroups, and each leaves `E + 2` floats a row.

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

const NAME: &str = "softmax";

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "exact softmax attention, tiled: the yardstick",
    inputs: &qkv::INPUTS,
    outputs: &[qkv::OUTPUT],
    state: &[],
    axes: &qkv::AXES,
    flags: &[
        Flag { name: "scale", kind: FlagKind::Number, help: "factor of the scores (1/sqrt D)" },
        Flag { name: "window", kind: FlagKind::Count, help: "keys i-W+1 to i only; needs the causal form (none)" },
    ],
    causal: Causality::Both,
    recurrent: false,
    complexity: "N M (D + E)",
    usage,
    configure,
    cases: cases::cases,
};

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order. Any D and E.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to i + M - N.
    pub causal: bool,
    /// W: how many keys a query sees at most, the last of them its own; only when causal.
    pub window: Option<usize>,
    /// Factor of the scores; `None`: `1 / sqrt(D)`.
    pub scale: Option<f32>,
}

impl Config {
    /// Causal, without a window.
    pub fn new(qkv: Qkv) -> Self {
        Self { qkv, causal: true, window: None, scale: None }
    }

    /// The factor of the scores in force.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(self.qkv.default_scale())
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.qkv.validate(NAME)?;
        if self.window == Some(0) {
            return Err(Error::setting(NAME, "window", "1 or more", "0"));
        }
        if self.window.is_some() && !self.causal {
            return Err(Error::setting(NAME, "window", "none for the non-causal form", "a window"));
        }
        qkv::check_scale(NAME, self.effective_scale())
    }

    fn mask(&self) -> Mask {
        Mask { causal: self.causal, window: self.window }
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
        attend::essential(&self.qkv, self.mask())
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

fn usage(flags: &Flags) -> Result<(), Error> {
    flags.number(NAME, "scale")?;
    if flags.count(NAME, "window")?.is_some() && flags.switch("causal") == Some(false) {
        return Err(Error::Usage(format!("{NAME}: --window needs the causal form that --no-causal turns off")));
    }
    Ok(())
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let config = Config {
        causal: flags.switch("causal").unwrap_or(true),
        window: flags.count(NAME, "window")?,
        scale: flags.number(NAME, "scale")?,
        ..Config::new(Qkv::of(&OP, request)?)
    };
    config.validate()?;
    Ok(Box::new(config))
}
