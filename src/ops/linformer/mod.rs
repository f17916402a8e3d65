//! Linformer: keys and values shortened to a fixed number of rows, then exact softmax over these.
//!
//! For every batch and query head h with key head g = h / (H / G):
//!
//! ```text
//! k' = e k     [K, D]
//! v' = f v     [K, E]
//! o_i = sum_r softmax_r(scale * q_i . k'_r) v'_r
//! ```
//!
//! with projections e and f `[K, M]`, one for all heads or one for each query head; without f, e serves both. In their
//! place row r may pool the tokens from `floor(r M / K)` to `ceil((r + 1) M / K) - 1`, by their mean or largest value (NaN
//! is passed over).
//! Every row mixes all tokens, so there is no causal form. Source: Wang et al., "Linformer: Self-attention with linear
//! complexity" (arXiv 2006.04768), equation 7, and section 4 for sharing and pooling. A projection that is drawn has
//! entries of N(0, 1/K), as in the paper's theorem.
//!
//! Cost: `2 K M (D + E)` flops a projected head and `2 K N (D + E)` a query head; workspace: the projected keys and
//! values in f32, `K (D + E)` floats a projected head, and as much for each split of the tokens, of keys or of values at
//! a time; each of the three must fit one binding. Nothing of size N x K is stored. Projected heads are those of k and v,
//! or all query heads as soon as one of the projections differs among these.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::{
    AxisDefault, Causality, Cost, Definition, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv, Request, Rows,
    TensorSpec, qkv,
};
use crate::error::Error;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Shape, Slot, Tensor, TensorMap};

const NAME: &str = "linformer";

/// The largest rank.
pub const MAX_RANK: usize = 65535;

/// Rank where no tensor and no flag says one.
pub const DEFAULT_RANK: usize = 256;

const E: TensorSpec = TensorSpec::weight("e", "1|H K M").drawn(Draw::Shaped(johnson_lindenstrauss));
const F: TensorSpec = TensorSpec::weight("f", "1|H K M").drawn(Draw::Shaped(johnson_lindenstrauss));

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "low-rank attention: softmax over keys and values projected to a fixed number of rows",
    inputs: &[qkv::INPUTS[0], qkv::INPUTS[1], qkv::INPUTS[2], E, F],
    outputs: &[qkv::OUTPUT],
    state: &[],
    axes: &[
        qkv::AXES[0],
        qkv::AXES[1],
        qkv::AXES[2],
        qkv::AXES[3],
        qkv::AXES[4],
        qkv::AXES[5],
        qkv::AXES[6],
        ("K", AxisDefault::Length(DEFAULT_RANK)),
    ],
    flags: &[
        Flag {
            name: "rank",
            kind: FlagKind::Count,
            help: "rows K of the projections, at most M (that of e or f, else 256)",
        },
        Flag { name: "scale", kind: FlagKind::Number, help: "factor of the scores (1/sqrt D)" },
        Flag {
            name: "pool",
            kind: FlagKind::Choice(&["mean", "max"]),
            help: "pool tokens in place of e and f (none: e is drawn from the seed if the files lack it)",
        },
    ],
    causal: Causality::Never,
    recurrent: false,
    complexity: "(N + M) K (D + E)",
    usage,
    configure,
    cases: cases::cases,
};

/// Entries of N(0, 1/K): a projection that keeps lengths in the mean.
fn johnson_lindenstrauss(shape: &Shape, values: &mut [f32]) {
    let scale = 1.0 / (shape.dims()[1] as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
}

/// Which heads a projection serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All: `[1, K, M]`.
    AllHeads,
    /// Each query head has its own: `[H, K, M]`.
    PerHead,
}

/// How a row pools its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pool {
    /// Their mean.
    Mean,
    /// The largest of each dimension.
    Max,
}

/// What shortens keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Matrices.
    Matrices {
        /// For the keys.
        e: Sharing,
        /// For the values; `None`: `e` serves both.
        f: Option<Sharing>,
    },
    /// A pooling.
    Pool(Pool),
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order. Any D and E.
    pub qkv: Qkv,
    /// K: rows that keys and values are shortened to, at most M and [`MAX_RANK`].
    pub rank: usize,
    /// What shortens them.
    pub projection: Projection,
    /// Factor of the scores; `None`: `1 / sqrt(D)`.
    pub scale: Option<f32>,
}

impl Config {
    /// One projection for all heads, keys and values.
    pub fn new(qkv: Qkv, rank: usize) -> Self {
        Self { qkv, rank, projection: Projection::Matrices { e: Sharing::AllHeads, f: None }, scale: None }
    }

    /// The factor of the scores in force.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(self.qkv.default_scale())
    }

    /// Heads of the projected keys and values: those of k and v, or of q where a projection differs among them.
    pub fn projected_heads(&self) -> usize {
        match self.projection {
            Projection::Matrices { e, f } if e == Sharing::PerHead || f == Some(Sharing::PerHead) => self.qkv.heads,
            _ => self.qkv.kv_heads,
        }
    }

    /// Shapes of the second half: q against the projected keys and values.
    fn short(&self) -> Qkv {
        self.qkv.kv_heads(self.projected_heads()).keys(self.rank)
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.qkv.validate(NAME)?;
        let most = self.qkv.keys.min(MAX_RANK);
        if self.rank == 0 || self.rank > most {
            let expected = if most < MAX_RANK { format!("1 to M = {most}") } else { format!("1 to {most}") };
            let default = if self.rank == DEFAULT_RANK { " (the default; see --rank)" } else { "" };
            return Err(Error::setting(NAME, "rank", expected, format!("{}{default}", self.rank)));
        }
        qkv::check_scale(NAME, self.effective_scale())?;
        check_memory(NAME, &self.slots())
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        if let Projection::Matrices { e, f } = self.projection {
            let mut push = |name, sharing| {
                let heads = if sharing == Sharing::PerHead { self.qkv.heads } else { 1 };
                slots.push(Slot::plain(name, Access::Read, DType::F32, [heads, self.rank, self.qkv.keys]));
            };
            push("e", e);
            f.into_iter().for_each(|f| push("f", f));
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
        cpu::variant()
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
    /// `[1, K, M]` or `[H, K, M]`, f32; none if the configuration pools.
    pub e: Option<&'a Tensor>,
    /// As `e`, for the values; given if and only if the configuration has it.
    pub f: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let mut named = vec![("q", tensors.q), ("k", tensors.k), ("v", tensors.v), ("o", tensors.o)];
    named.extend(tensors.e.map(|e| ("e", e)));
    named.extend(tensors.f.map(|f| ("f", f)));
    plan.bind(&named, workspace)
}

fn usage(flags: &Flags) -> Result<(), Error> {
    flags.number(NAME, "scale")?;
    flags.count(NAME, "rank")?;
    match flags.word("pool") {
        None | Some("mean" | "max") => Ok(()),
        Some(word) => Err(Error::Usage(format!("{NAME}: --pool: expected mean or max, found `{word}`"))),
    }
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let qkv = Qkv::of(&OP, request)?;
    let pool = flags.word("pool").map(|word| if word == "max" { Pool::Max } else { Pool::Mean });
    let mut rank = flags.count(NAME, "rank")?.map(|rank| (rank, "--rank"));
    let mut sharing = [None; 2];
    for (spec, sharing) in [E, F].iter().zip(&mut sharing) {
        let Some(shape) = request.optional(NAME, spec)? else { continue };
        let refuse = |expected: String| Err(Error::tensor(NAME, spec.name, expected, shape.to_string()));
        if let Some(pool) = flags.word("pool") {
            return refuse(format!("none with --pool {pool}, which takes its place"));
        }
        let [heads, rows, keys] = [0, 1, 2].map(|axis| shape.dims()[axis]);
        if keys != qkv.keys {
            return refuse(format!("length M = {} as in k", qkv.keys));
        }
        if heads != 1 && heads != qkv.heads {
            return refuse(format!("1 or H = {} heads", qkv.heads));
        }
        match rank {
            Some((rank, of)) if rank != rows => return refuse(format!("rank K = {rank} as in {of}")),
            _ if rows > qkv.keys => return refuse(format!("rank K of at most M = {}", qkv.keys)),
            _ => rank = Some((rows, spec.name)),
        }
        *sharing = Some(if heads == 1 { Sharing::AllHeads } else { Sharing::PerHead });
    }
    let [e, f] = sharing;
    let config = Config {
        qkv,
        rank: rank.map_or(DEFAULT_RANK, |(rank, _)| rank),
        projection: match pool {
            Some(pool) => Projection::Pool(pool),
            None => Projection::Matrices { e: e.unwrap_or(Sharing::AllHeads), f },
        },
        scale: flags.number(NAME, "scale")?,
    };
    config.validate()?;
    Ok(Box::new(config))
}
