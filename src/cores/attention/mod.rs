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
//! cache. As many workgroups as fill the device share the keys that a block of up to eight rows sees, in tiles of 128. Each
//! writes a maximum, a sum and E partial outputs per row, and a second dispatch combines these in order. Keys and values are
//! read once per block, whichever query heads its rows are of.
//!
//! On a device with matrix units, f16 storage takes a third form in the place of the tiled one ([`matrix`]): the same blocks,
//! with products of small matrices.
//!
//! Keys are those of the tensor, or in each batch entry as many as a small buffer says: then one plan serves a growing cache.
//! Tiles behind the last key cost nothing, and splits share the keys that there are. What else there may be beside q, k, v
//! and o is in [`Extras`]; each is a fragment that costs nothing where it is left out.
//!
//! Operators differ in two points. The score of a query and a key is a WGSL fragment of the operator, which receives
//! their product and, if it needs them, their sums of squares, and may ask for the vectors themselves in rare cases. The
//! weights are the exponentials of the scores, or the scores themselves.

#[cfg(feature = "cpu")]
pub(crate) mod cpu;
mod extras;
mod matrix;
pub(crate) mod reference;
mod seen;
pub(crate) mod split_k;
mod tiled;

use std::mem::offset_of;

pub(crate) use extras::{Extras, PLAIN};
pub(crate) use matrix::matrix_kernel;
pub(crate) use seen::Mask;
#[cfg(feature = "cpu")]
use seen::Seen;
pub(crate) use tiled::Tiles;

use crate::cores::rows::{OUTPUTS_STORED, ROWS};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::pairs::Align;
use crate::operator::qkv::Qkv;
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths};
use crate::tensor::Slot;

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
        sequences: u32,
        score: f32,
        norm_eps: f32,
        cap: f32,
        _pad0: u32,
        _pad1: u32,
        _pad2: u32,
        q: Strides,
        pub(crate) k: Strides,
        pub(crate) v: Strides,
        o: Strides,
        bias: Strides,
        mask: Strides,
        lse: Strides,
    }
}

/// Slots of q, k, v and o (0 to 3), with the byte offsets of their strides in [`Params`].
pub(crate) const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Defines `Params`, and how scores become weights.
const TYPES: Fragment = fragment!("cores/attention/types.wgsl");
/// The score of softmax: the product times the scale, also held within a cap.
pub(crate) const SCALED: Fragment = fragment!("cores/attention/scaled.wgsl");
pub(crate) const CAPPED: Fragment = fragment!("cores/attention/capped.wgsl");
pub(crate) const TANH: Fragment = fragment!("lib/tanh.wgsl");
pub(crate) const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
/// For scores that never need the vectors themselves.
pub(crate) const FINAL: Fragment = fragment!("cores/attention/scores_final.wgsl");
/// Sums of squares for a score that needs them, and empty functions for a score that does not.
pub(crate) const SQUARES: Fragment = fragment!("cores/attention/squares.wgsl");
pub(crate) const NO_SQUARES: Fragment = fragment!("cores/attention/no_squares.wgsl");
/// Finds the rows of a workgroup.
const BLOCK: Fragment = fragment!("cores/attention/block.wgsl");
/// Products of rows and keys in workgroup memory, which an invocation holds in registers.
pub(crate) const PRODUCTS: Fragment = fragment!("lib/products.wgsl");
/// The tiled form.
const CORE: Fragment = fragment!("cores/attention/attention.wgsl");
/// The split-K form: pass 1 processes one split of the keys per workgroup, pass 2 combines the splits.
const SPLIT: Fragment = fragment!("cores/attention/split_k.wgsl");
const MERGE: Fragment = fragment!("cores/attention/split_k_merge.wgsl");

/// The parameter of [`SCALED`]: scores whose exponentials are weights are in units of log 2, for powers of two.
pub(crate) fn scaled(scale: f32) -> f32 {
    scale * std::f32::consts::LOG2_E
}

/// Why every index of the core is within bounds.
pub(crate) const PROOF: &str = "indices are below products of the consts that size the arrays; loops end at consts, uniforms or \
     the keys seen, which are among those of the tensor whatever `lengths` and `cu_seqlens` say; rows and keys past the end \
     read the last pair";

/// Why every index of the form that splits keys is within bounds.
const SPLIT_PROOF: &str = "rows and keys are clamped to those of the tensors, splits to their number; other indices are below \
     products of the consts that size the arrays; loops end at consts, uniforms or the keys seen";

/// The tiled form. A variant brings the score, the fragments of [`Extras`] or [`PLAIN`], and the storage type of the keys.
pub(crate) const fn tiled_kernel(name: &'static str, proof: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, ROWS, OUTPUTS_STORED, BLOCK, PRODUCTS, CORE];
    Kernel { entry: "attention_tiled", ..Kernel::new(name, sources, Params::UNIFORM, Some(proof)) }
}

/// Pass 1 of the form for few queries, which splits the keys. A variant brings the same fragments as for [`tiled_kernel`].
pub(crate) const fn split_kernel(name: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, ROWS, SPLIT];
    Kernel { entry: "attention_split_k", ..Kernel::new(name, sources, Params::UNIFORM, Some(SPLIT_PROOF)) }
}

/// Creates the kernel of pass 2 of the split-K form, which combines the splits.
pub(crate) const fn merge_kernel(name: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, ROWS, OUTPUTS_STORED, MERGE];
    Kernel { entry: "attention_split_k_merge", ..Kernel::new(name, sources, Params::UNIFORM, Some(SPLIT_PROOF)) }
}

/// Minimum work: the parts of the inputs that are seen are read once, each output is written once, and only pairs of a
/// query and a key that it sees are computed.
pub(crate) fn essential(s: &Qkv, mask: Mask) -> Cost {
    let [q, k, v, o] = s.elements();
    let size = s.dtype.size() as f64;
    let pairs = (s.batch * s.heads) as f64 * mask.pairs(s);
    let keys = mask.span(s).len() as f64 / s.keys as f64;
    let queries = mask.seeing(s) as f64 / s.queries as f64;
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
    /// What there is beside q, k, v and o.
    pub(crate) extras: Extras,
    /// The tiled form; the two of few queries; the form for matrix units.
    pub(crate) kernels: &'static [Kernel; 4],
    /// The fragments of the score, for the tiled form and for the split-K form.
    pub(crate) fragments: [&'static [Fragment]; 2],
    /// Overrides for the operator's score.
    pub(crate) overrides: Vec<(&'static str, u32)>,
}

type Parts = (String, Vec<Scratch>, Vec<Step>);

impl Attention<'_> {
    /// Builds the dispatches for this device.
    pub(crate) fn program(&self, caps: &Caps) -> Result<Program, Error> {
        let slots = self.slots();
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &slots)?;
        check_lengths(self.op, self.qkv)?;
        let (variant, workspace, steps) = match matrix::Matrices::new(self, caps) {
            _ if self.splits(caps) => self.split(caps),
            Some(form) => self.matrices(&form, caps),
            None => self.tiled(caps),
        };
        check_workspace(self.op, &workspace)?;
        let mut pieces = Vec::new();
        let shares = [&STRIDES[..], &self.extras.shares(self.qkv, &slots)].concat();
        for step in steps {
            pieces.extend(self.qkv.cut(self.op, step, &slots, &shares, caps)?);
        }
        let pieces = self.qkv.strided(pieces, &STRIDES);
        Ok(Program::new(self.op, variant, slots, workspace, pieces))
    }

    fn slots(&self) -> Vec<Slot> {
        self.qkv.slots().into_iter().chain(self.extras.slots(self.qkv)).collect()
    }

    fn step(
        &self,
        kernel: &'static Kernel,
        (spec, narrow): (Variant, Option<Variant>),
        params: Params,
        cost: Cost,
    ) -> Step {
        let mut params = Params { norm_eps: self.norm_eps, ..params };
        self.extras.set(&mut params, self.qkv);
        let slots = self.slots();
        let operands = slots.iter().enumerate().map(|(at, slot)| (slot.name, Operand::Slot(at)));
        let operands: Vec<Named> = operands.chain([("partials", Operand::Workspace(0))]).collect();
        Step::new(kernel, spec, &params, &operands, 0, cost).or_narrow(narrow)
    }

    /// The variant of a kernel that makes weights, with the fragments of the score.
    fn weighing(&self, score: &[Fragment]) -> Variant {
        let mut overrides = vec![("CAUSAL", self.mask.causal.into())];
        overrides.extend((!self.exponential).then_some(("EXPONENTIAL", 0)));
        if self.extras.sequences.is_none() {
            overrides.push(("ALIGN_START", (self.mask.align == Align::Start).into()));
        }
        overrides.extend(&self.overrides);
        Variant::new(self.qkv.dtype, vec![], overrides).with(score).with(&self.extras.of_weights())
    }

    /// A step of a kernel that makes weights, in workgroups of so many invocations, each of which asks for the keys of so many
    /// queries, at most. Its cost is stated for exponentials of all keys.
    fn weighed(&self, mut step: Step, invocations: usize, asked: usize) -> Step {
        let each = self.extras.seen_bytes(self.mask.causal, asked);
        step.cost.bytes_read += (step.groups * invocations as u64) as f64 * each;
        if self.extras.softcap.is_some() {
            step.cost.exps *= 2.0;
        }
        if !self.exponential {
            step.cost.exps = 0.0;
        }
        step
    }
}
