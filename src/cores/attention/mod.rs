//! The tiled attention core, host side: tile sizes, uniforms, bytes and flops of the kernels in
//! `shaders/cores/attention`. Pure.
//!
//! A workgroup processes a block of 64 rows. A row is one query of one query head; query heads that share a key head
//! share a block if there is room. The workgroup goes through the keys that its queries see in tiles of 64 (32 where
//! invocations have few registers or values few columns), with a running maximum and sum, so that no score is written to
//! memory. Every block reads its keys and values once, and its queries once per tile of keys. Only tiles that some row
//! does not see as a whole are masked.
//!
//! An operator that applies the core directly to q, k and v ([`Attention`]) also has a split-K form. It is used if a
//! key head has at most eight rows, or if it has more rows but the tiled form would leave the device idle with a long
//! cache. Each workgroup processes 128 keys and writes a maximum, a sum and E partial outputs per row. A second
//! dispatch combines these in order. Keys and values are read once per eight rows.
//!
//! On a device with matrix units, f16 storage takes a third form in the place of the tiled one ([`matrix`]): the same blocks,
//! with products of small matrices.
//!
//! Keys are those of the tensor, or in each batch entry as many as a small buffer says ([`KEYS_LENGTHS`]): then one plan
//! serves a growing cache. Tiles behind the last key cost nothing; splits behind it find no key, and so do little.
//!
//! Operators differ in two points. The score of a query and a key is a WGSL fragment of the operator, which receives
//! their product and, if it needs them, their sums of squares, and may ask for the vectors themselves in rare cases. The
//! weights are the exponentials of the scores, or the scores themselves.

#[cfg(feature = "cpu")]
pub(crate) mod cpu;
mod matrix;
mod split_k;
mod tiled;

use std::mem::offset_of;

pub(crate) use matrix::matrix_kernel;
pub(crate) use tiled::Tiles;

use crate::cores::rows::{OUTPUTS_STORED, ROWS};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::Qkv;
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths};
use crate::tensor::{Access, DType, HostTensor, Slot, TensorMap, Values};

params! {
    /// Must match `struct Params` in `shaders/cores/attention/types.wgsl`.
    pub(crate) struct Params {
        grid: Grid,
        queries: u32,
        keys: u32,
        heads: u32,
        kv_heads: u32,
        dim_k: u32,
        dim_v: u32,
        window: u32,
        row_queries: u32,
        block_heads: u32,
        head_splits: u32,
        row_blocks: u32,
        col_splits: u32,
        splits: u32,
        first_key: u32,
        score: f32,
        norm_eps: f32,
        q: Strides,
        pub(crate) k: Strides,
        pub(crate) v: Strides,
        o: Strides,
    }
}

/// Slots of q, k, v and o (0 to 3), with the byte offsets of their strides in [`Params`].
pub(crate) const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Defines `Params` and the mask, which is the range of keys that a query sees.
const TYPES: Fragment = fragment!("cores/attention/types.wgsl");
/// The score of softmax: the product times the scale.
pub(crate) const SCALED: Fragment = fragment!("cores/attention/scaled.wgsl");
/// For scores that never need the vectors themselves.
pub(crate) const FINAL: Fragment = fragment!("cores/attention/scores_final.wgsl");
/// Sums of squares for a score that needs them, and empty functions for a score that does not.
pub(crate) const SQUARES: Fragment = fragment!("cores/attention/squares.wgsl");
pub(crate) const NO_SQUARES: Fragment = fragment!("cores/attention/no_squares.wgsl");
/// Finds the rows of a workgroup.
const BLOCK: Fragment = fragment!("cores/attention/block.wgsl");
/// The tiled form.
const CORE: Fragment = fragment!("cores/attention/attention.wgsl");
/// The split-K form: pass 1 processes one split of the keys per workgroup, pass 2 combines the splits.
const SPLIT: Fragment = fragment!("cores/attention/split_k.wgsl");
const MERGE: Fragment = fragment!("cores/attention/split_k_merge.wgsl");
/// Keys that a batch entry has: those of the tensor, or as many as slot `lengths` says.
pub(crate) const KEYS_ALL: Fragment = fragment!("cores/attention/keys_all.wgsl");
const KEYS_LENGTHS: Fragment = fragment!("cores/attention/keys_lengths.wgsl");

/// The parameter of [`SCALED`]: scores whose exponentials are weights are in units of log 2, for powers of two.
pub(crate) fn scaled(scale: f32) -> f32 {
    scale * std::f32::consts::LOG2_E
}

/// Why every index of the core is within bounds.
pub(crate) const PROOF: &str = "indices are below products of the consts that size the arrays; loops end at consts, uniforms or the keys seen, which are \
     among those of the tensor whatever `lengths` says";

/// The tiled form. A variant brings the score, [`KEYS_ALL`] or [`KEYS_LENGTHS`], and the storage type of the keys.
pub(crate) const fn tiled_kernel(name: &'static str, proof: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, ROWS, OUTPUTS_STORED, BLOCK, CORE];
    Kernel { entry: "attention_tiled", ..Kernel::new(name, sources, Params::UNIFORM, Some(proof)) }
}

/// Pass 1 of the form for few queries, which splits the keys. A variant brings the same fragments as for [`tiled_kernel`].
pub(crate) const fn split_kernel(name: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, ROWS, SPLIT];
    Kernel { entry: "attention_split_k", ..Kernel::new(name, sources, Params::UNIFORM, None) }
}

/// The slot of the key counts.
pub(crate) fn lengths_slot(s: &Qkv) -> Slot {
    Slot::plain("lengths", Access::Read, DType::U32, [s.batch])
}

/// Keys of each batch entry, as the slot says.
pub(crate) fn key_counts(s: &Qkv, tensors: &TensorMap) -> Vec<usize> {
    match tensors.get("lengths").map(HostTensor::values) {
        Some(Values::U32(lengths)) => lengths.iter().map(|length| (*length as usize).min(s.keys)).collect(),
        _ => panic!("tensor lengths is missing"),
    }
}

/// Creates the kernel of pass 2 of the split-K form, which combines the splits.
pub(crate) const fn merge_kernel(name: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, MERGE];
    Kernel { entry: "attention_split_k_merge", ..Kernel::new(name, sources, Params::UNIFORM, None) }
}

/// The mask: which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask {
    pub(crate) causal: bool,
    /// Maximum number of keys per query, the last of which is its own key; only if causal.
    pub(crate) window: Option<usize>,
}

impl Mask {
    /// Keys that query `n` of `s` sees. The last query is aligned with the last key, as with a cache.
    pub(crate) fn keys(&self, s: &Qkv, n: usize) -> std::ops::Range<usize> {
        if !self.causal {
            return 0..s.keys;
        }
        let end = (n + 1 + s.keys).saturating_sub(s.queries);
        end.saturating_sub(self.window.unwrap_or(end))..end
    }

    /// Queries that see key `j`.
    #[cfg(feature = "cpu")]
    pub(crate) fn queries(&self, s: &Qkv, j: usize) -> std::ops::Range<usize> {
        if !self.causal {
            return 0..s.queries;
        }
        let first = (j + s.queries).saturating_sub(s.keys);
        let end =
            self.window.map_or(s.queries, |w| (j + s.queries).saturating_add(w).saturating_sub(s.keys).min(s.queries));
        first..end.max(first)
    }

    /// Number of pairs of a query and a key that it sees, for one head.
    pub(crate) fn pairs(&self, s: &Qkv) -> f64 {
        if !self.causal {
            return s.queries as f64 * s.keys as f64;
        }
        // The end of the keys seen grows by one with each query, up to M. If N > M, the first queries see no key. No
        // query sees more keys than the window.
        let seen = s.queries.min(s.keys);
        let (last, first) = (s.keys as f64, (s.keys - seen + 1) as f64);
        let window = self.window.map_or(last, |w| w.min(s.keys) as f64);
        let growing = (window - first).max(0.0).min(seen as f64);
        growing * (first + first + growing - 1.0) / 2.0 + (seen as f64 - growing) * window.min(last)
    }
}

/// Minimum work: the parts of the inputs that are seen are read once, each output is written once, and only pairs of a
/// query and a key that it sees are computed.
pub(crate) fn essential(s: &Qkv, mask: Mask) -> Cost {
    let [q, k, v, o] = s.elements();
    let size = s.dtype.size() as f64;
    let pairs = (s.batch * s.heads) as f64 * mask.pairs(s);
    let keys = (s.keys - mask.keys(s, 0).start) as f64 / s.keys as f64;
    let queries = if mask.causal { s.queries.min(s.keys) as f64 / s.queries as f64 } else { 1.0 };
    Cost {
        flops: 2.0 * pairs * (s.dim_k + s.dim_v) as f64,
        exps: pairs,
        bytes_read: (q * queries + (k + v) * keys) * size,
        bytes_written: o * size,
    }
}

/// An operator that applies the core directly to q, k and v. Its slots 0 to 3 are those of [`Qkv::slots`].
pub(crate) struct Attention<'a> {
    pub(crate) op: &'static str,
    pub(crate) qkv: &'a Qkv,
    pub(crate) mask: Mask,
    /// The parameter of the score, for example the scale of softmax.
    pub(crate) score: f32,
    /// Whether weights are exponentials of scores; otherwise they are the scores themselves.
    pub(crate) exponential: bool,
    /// Added to the sum of weights.
    pub(crate) norm_eps: f32,
    /// Whether slot 4 says how many keys each batch entry has.
    pub(crate) lengths: bool,
    /// The tiled form; the two of few queries; the form for matrix units.
    pub(crate) kernels: &'static [Kernel; 4],
    /// The fragments of the score, for the tiled form and for the split-K form.
    pub(crate) fragments: [&'static [Fragment]; 2],
    /// Overrides for the operator's score.
    pub(crate) overrides: Vec<(&'static str, u32)>,
}

/// Every buffer of the kernels.
const OPERANDS: [Named; 6] = [
    ("q", Operand::Slot(0)),
    ("k", Operand::Slot(1)),
    ("v", Operand::Slot(2)),
    ("o", Operand::Slot(3)),
    ("lengths", Operand::Slot(4)),
    ("partials", Operand::Workspace(0)),
];

type Parts = (String, Vec<Scratch>, Vec<Step>);

impl Attention<'_> {
    /// Builds the dispatches for this device.
    pub(crate) fn program(&self, caps: &Caps) -> Result<Program, Error> {
        let mut slots = self.qkv.slots();
        slots.extend(self.lengths.then(|| lengths_slot(self.qkv)));
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &slots)?;
        check_lengths(self.op, self.qkv)?;
        let (variant, workspace, steps) = match matrix::Matrices::new(self.qkv, caps) {
            _ if self.splits(caps) => self.split(caps),
            Some(form) => self.matrices(&form, caps),
            None => self.tiled(caps),
        };
        let mut pieces = Vec::new();
        for step in steps {
            pieces.extend(self.qkv.cut(self.op, step, &slots, &STRIDES, caps)?);
        }
        let pieces = self.qkv.strided(pieces, &STRIDES);
        Ok(Program::new(self.op, variant, slots, workspace, pieces))
    }

    fn step(
        &self,
        kernel: &'static Kernel,
        (spec, narrow): (Variant, Option<Variant>),
        params: Params,
        cost: Cost,
    ) -> Step {
        let params = Params { norm_eps: self.norm_eps, ..params };
        Step::new(kernel, spec, &params, &OPERANDS, 0, cost).or_narrow(narrow)
    }

    /// The variant of a kernel that makes weights, with the fragments of the score.
    fn weighing(&self, score: &[Fragment]) -> Variant {
        let mut overrides = vec![("CAUSAL", self.mask.causal.into())];
        overrides.extend((!self.exponential).then_some(("EXPONENTIAL", 0)));
        overrides.extend(&self.overrides);
        let keys = if self.lengths { KEYS_LENGTHS } else { KEYS_ALL };
        Variant::new(self.qkv.dtype, vec![], overrides).with(score).with(&[keys])
    }

    /// A step of a kernel that makes weights, in workgroups of so many, whose cost is stated for exponentials of all keys.
    fn weighed(&self, mut step: Step, invocations: usize) -> Step {
        if self.lengths {
            step.cost.bytes_read += step.groups as f64 * invocations as f64 * 4.0;
        }
        if !self.exponential {
            step.cost.exps = 0.0;
        }
        step
    }
}
