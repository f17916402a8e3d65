//! The recurrences, host side: from shapes to tiles, segments, uniforms, workspace and dispatches of the core in
//! `shaders/common/recurrence_*.wgsl`. Pure.
//!
//! A state has as many rows as features and as many columns as values have dimensions; keys write it, queries read it. An
//! operator tells how wide its features are, which kernels make them, and what that costs (`Core`).
//!
//! Bytes. With `s` the column splits, one pass moves `s` times q and k and once v and o; two passes move k and v again:
//! `(3 s + 3) / 4` of q, k, v and o where D = E and H = G. Where many query heads share a key head, its keys and values are
//! read once more for every head split ([`Tiles::head_splits`]). Segments that the plan chooses are long enough that all
//! traffic of their states stays below a tenth of that of q, k, v, o; below half of it where these would leave most of the
//! machine idle.

pub(crate) mod kernels;
mod steps;
mod tiles;

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::Qkv;
use super::qkv::{Strides, check_lengths};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Program, check_indices};
use crate::gpu::source::{Field, Source, fields};
use crate::tensor::Slot;
use kernels::Kernels;

pub(crate) use tiles::MOST_ROWS;
pub use tiles::{Tiles, Walk};

/// Twin of `struct Params` in `shaders/common/recurrence_types.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) grid: Grid,
    pub(crate) queries: u32,
    pub(crate) keys: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) dim_k: u32,
    pub(crate) dim_v: u32,
    pub(crate) rows: u32,
    pub(crate) segment: u32,
    pub(crate) segments: u32,
    pub(crate) col_splits: u32,
    pub(crate) head_splits: u32,
    pub(crate) segment_stride: u32,
    pub(crate) norm_offset: u32,
    pub(crate) scale: f32,
    pub(crate) norm_eps: f32,
    pub(crate) stored_segments: u32,
    pub(crate) nodes: u32,
    pub(crate) poly: u32,
    pub(crate) features: u32,
    pub(crate) omega: u32,
    pub(crate) first_poly: u32,
    pub(crate) poly_scale: f32,
    pub(crate) state_len: u32,
    pub(crate) share: u32,
    pub(crate) q: Strides,
    pub(crate) k: Strides,
    pub(crate) v: Strides,
    pub(crate) o: Strides,
    pub(crate) g: Strides,
    pub(crate) beta: Strides,
    pub(crate) first: u32,
    pub(crate) end: u32,
    pub(crate) read_page: u32,
    pub(crate) write_page: u32,
    pub(crate) skip: u32,
    pub(crate) bias: u32,
    pub(crate) beside: u32,
    pub(crate) max_len: u32,
    pub(crate) node: [[f32; 4]; 32],
}

/// Fields of [`Params`], for its kernels.
pub(crate) const FIELDS: &[Field] = fields!(
    Params: grid, queries, keys, heads, kv_heads, dim_k, dim_v, rows, segment, segments, col_splits, head_splits,
    segment_stride, norm_offset, scale, norm_eps, stored_segments, nodes, poly, features, omega, first_poly, poly_scale,
    state_len, share, q, k, v, o, g, beta, first, end, read_page, write_page, skip, bias, beside, max_len, node
);

/// Where the uniform has the strides of q, k, v and o, which are slots 0 to 3.
pub(crate) const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Where it has those of what makes the decay, and those of o.
pub(crate) const GATE_STRIDES: usize = offset_of!(Params, g);
const O_STRIDES: usize = offset_of!(Params, o);

/// What a token leaves of the state before it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decay {
    /// All of it.
    None,
    /// One factor for all rows.
    Head,
    /// A factor for each row.
    Row,
    /// One factor for all rows, of a state that is relative to a level, beside the sums where it is carried.
    Level,
}

impl Decay {
    /// DECAY in the shaders.
    pub(crate) fn number(self) -> u32 {
        match self {
            Decay::None => 0,
            Decay::Head | Decay::Level => 1,
            Decay::Row => 2,
        }
    }
}

/// What an operator tells the core.
pub(crate) struct Core<'a> {
    pub(crate) op: &'static str,
    pub(crate) qkv: &'a Qkv,
    /// Slots q, k, v, o, then weights if there are any, then the state if it is carried.
    pub(crate) slots: Vec<Slot>,
    pub(crate) weights: Option<usize>,
    pub(crate) kernels: &'static Kernels,
    /// Fragments in front of kernels that make features, more of those that write states and of those that write outputs, and
    /// those of decoding.
    pub(crate) fragments: Vec<Source>,
    pub(crate) segment_fragments: Vec<Source>,
    pub(crate) output_fragments: Vec<Source>,
    pub(crate) decode_fragments: Vec<Source>,
    /// Slots bound behind all others, by kernels that write states, and by those that write outputs; the const of the prelude
    /// that has the first of their bindings.
    pub(crate) more: Vec<usize>,
    pub(crate) more_output: Vec<usize>,
    pub(crate) more_const: &'static str,
    /// What more these kernels are specialised by: the first of them does not know the last of these.
    pub(crate) overrides: Vec<(&'static str, u32)>,
    pub(crate) output_overrides: Vec<(&'static str, u32)>,
    /// How the state decays, and by which slot.
    pub(crate) decay: Decay,
    pub(crate) gate: Option<usize>,
    /// Strides of q, k, v and o, where they are not those of `qkv`, and key heads of the state that share a head of q and k.
    pub(crate) strides: [Strides; 4],
    pub(crate) share: usize,
    /// A slot of the shape of o that is cut as it is.
    pub(crate) beside_o: Option<usize>,
    /// Whether a position is carried behind the sums, of which every key head has a copy.
    pub(crate) position: bool,
    /// Whether the carried state is stored column after column, and comes to outputs by way of the segments.
    pub(crate) transposed: bool,
    /// Their consts, of a kernel that reads so many query heads.
    pub(crate) consts: Vec<(&'static str, u32)>,
    pub(crate) decode_consts: Vec<(&'static str, u32)>,
    /// Rows of the state.
    pub(crate) rows: usize,
    pub(crate) causal: bool,
    pub(crate) normalize: bool,
    pub(crate) scale: f32,
    pub(crate) norm_eps: f32,
    pub(crate) segment: Option<usize>,
    pub(crate) carry: bool,
    pub(crate) decode: bool,
    /// What an operator of its own has in the uniform.
    pub(crate) params: Params,
    /// Dispatches that share the rows of a state; the entries of the polynomial map each takes.
    pub(crate) row_splits: usize,
    pub(crate) split_step: usize,
    /// Work to make the features of one token once, beside reading it.
    pub(crate) feature: Cost,
    /// Bytes of weights that a workgroup reads once, and again for each vector.
    pub(crate) weight_bytes: (f64, f64),
    /// Bytes beyond the essential ones, beside those of states and values, that decoding reads.
    pub(crate) decode_more: f64,
    /// Work to make the decay of a token and key head, and to finish a row of outputs.
    pub(crate) decay_cost: Cost,
    pub(crate) finish_cost: Cost,
    /// Essential work.
    pub(crate) essential: Cost,
}

impl Core<'_> {
    /// Elements of a state.
    pub(crate) fn state_len(&self) -> usize {
        self.rows * (self.qkv.dim_v + usize::from(self.normalize))
    }

    /// Elements that say what a segment leaves of the state before it: logarithms of factors.
    pub(crate) fn passed_len(&self) -> usize {
        match self.decay {
            Decay::None => 0,
            Decay::Head => 1,
            Decay::Row => self.rows,
            // Behind the logarithm, the level of the segment and the one that it starts from, which the scan writes.
            Decay::Level => 3,
        }
    }

    /// Those of them that the segment itself writes.
    pub(crate) fn passed_by_segment(&self) -> usize {
        self.passed_len().saturating_sub(usize::from(self.decay == Decay::Level))
    }

    /// Bytes of a key head's level.
    pub(crate) fn level_bytes(&self) -> f64 {
        if self.decay == Decay::Level { 4.0 } else { 0.0 }
    }

    /// What a GPU has to do.
    pub(crate) fn program(&self, state: &Slot, tiles: &Tiles, caps: &Caps) -> Result<Program, Error> {
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &self.slots)?;
        check_indices(self.op, std::slice::from_ref(state))?;
        // The end of the last segment may lie up to a segment beyond that of the sequence, and is computed in u32.
        check_lengths(self.op, self.qkv)?;
        steps::Builder::new(self, *tiles, self.walk(tiles, caps)).build(caps)
    }
}
