//! Recurrences with a state, host side: tiles, segments, uniforms, workspace and dispatches of the kernels in
//! `shaders/cores/recurrence`. Pure.
//!
//! The state of a key head is a matrix with one row per feature and one column per value dimension. Keys and values
//! write it, queries read it. An operator provides the number of its features, the kernels that compute them, and their
//! cost (`Core`).
//!
//! Memory traffic: with `s` column splits, one pass reads q and k `s` times, reads v once and writes o once. Two passes
//! read k another `s` times and v once more. In total this is `(3 s + 3) / 4` times the bytes of q, k, v and o if D = E
//! and H = G. If many query heads share a key head, every head split ([`Tiles::head_splits`]) reads its keys and values
//! again. The plan chooses segments so long that the traffic of their states stays below a tenth of that of q, k, v and
//! o; if this would leave most of the device idle, below a half.

#[cfg(feature = "cpu")]
pub(crate) mod cpu;
#[cfg(feature = "cpu")]
pub(crate) mod cpu_decay;
mod dispatch;
pub(crate) mod kernels;
pub(crate) mod reference;
mod tiles;

use std::mem::offset_of;

use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Program, check_indices};
use crate::gpu::shader::{Fragment, params};
use crate::operator::mode::Mode;
use crate::operator::qkv::Qkv;
use crate::operator::qkv::{Strides, check_lengths};
use crate::tensor::Slot;
use kernels::Kernels;

pub(crate) use tiles::MOST_ROWS;
pub(crate) use tiles::{Passes, Tiles};

params! {
    /// Must match `struct Params` in `shaders/cores/recurrence/types.wgsl`.
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
        pub(crate) extra_state: u32,
        pub(crate) max_len: u32,
        pub(crate) node: [[f32; 4]; 32],
    }
}

/// Slots of q, k, v and o (0 to 3), with the byte offsets of their strides in [`Params`].
pub(crate) const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Byte offsets in [`Params`] of the strides of the decay tensor, and of those of o.
pub(crate) const GATE_STRIDES: usize = offset_of!(Params, g);
const O_STRIDES: usize = offset_of!(Params, o);

/// How each token decays the state before it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decay {
    /// No decay.
    None,
    /// One factor for all rows.
    Head,
    /// One factor per row.
    Row,
    /// One factor for all rows of a state that is stored relative to a running maximum. A carried state stores the
    /// running maximum after its sums.
    Stabilized,
}

impl Decay {
    /// Value of the const DECAY in the shaders.
    pub(crate) fn number(self) -> u32 {
        match self {
            Decay::None => 0,
            Decay::Head | Decay::Stabilized => 1,
            Decay::Row => 2,
        }
    }
}

/// The parameters that an operator gives the core.
pub(crate) struct Core<'a> {
    pub(crate) op: &'static str,
    pub(crate) qkv: &'a Qkv,
    /// Slots q, k, v, o, then weights if there are any, then the state if it is carried.
    pub(crate) slots: Vec<Slot>,
    pub(crate) weights: Option<usize>,
    pub(crate) kernels: &'static Kernels,
    /// Fragments of the segment and output kernels; more fragments of only the segment kernel, and of only the output
    /// kernel; fragments of the decode kernel.
    pub(crate) fragments: Vec<Fragment>,
    pub(crate) segment_fragments: Vec<Fragment>,
    pub(crate) output_fragments: Vec<Fragment>,
    pub(crate) decode_fragments: Vec<Fragment>,
    /// Extra slots, bound after all others: of the segment kernel, and of the output and decode kernels. `more_const`
    /// is the name of the const that holds the binding number of the first of them.
    pub(crate) more: Vec<usize>,
    pub(crate) more_output: Vec<usize>,
    pub(crate) more_const: &'static str,
    /// Overrides of the segment, output and decode kernels, and overrides that the segment kernel does not have.
    pub(crate) overrides: Vec<(&'static str, u32)>,
    pub(crate) output_overrides: Vec<(&'static str, u32)>,
    /// How the state decays, and the slot of the decay tensor.
    pub(crate) decay: Decay,
    pub(crate) gate: Option<usize>,
    /// Strides of q, k, v and o, which may differ from those of `qkv`, and the number of key heads of the state that
    /// share a head of q and k.
    pub(crate) strides: [Strides; 4],
    pub(crate) share: usize,
    /// A slot with the shape of o that is split together with it.
    pub(crate) beside_o: Option<usize>,
    /// Whether a position is carried after the sums, with one copy per key head.
    pub(crate) position: bool,
    /// Whether the carried state is stored column by column. The output kernel then reads it through the workspace of
    /// segment states.
    pub(crate) transposed: bool,
    /// Consts of the segment and output kernels, and of the decode kernel.
    pub(crate) consts: Vec<(&'static str, u32)>,
    pub(crate) decode_consts: Vec<(&'static str, u32)>,
    /// Rows of the state.
    pub(crate) rows: usize,
    pub(crate) mode: Mode,
    pub(crate) normalize: bool,
    pub(crate) scale: f32,
    pub(crate) norm_eps: f32,
    /// Values of the uniform that only this operator uses.
    pub(crate) params: Params,
    /// Number of dispatches that share the rows of a state, and number of entries of the polynomial map for each of
    /// them.
    pub(crate) row_splits: usize,
    pub(crate) split_step: usize,
    /// Work to compute the features of one token once, without reading the token.
    pub(crate) feature: Cost,
    /// Bytes of weights that a workgroup reads once, and bytes that it reads for each vector.
    pub(crate) weight_bytes: (f64, f64),
    /// Bytes that decoding reads in addition to the minimum and to repeated reads of states and values.
    pub(crate) decode_more: f64,
    /// Work to compute the decay of one token of one key head, and to finish one row of outputs.
    pub(crate) decay_cost: Cost,
    pub(crate) finish_cost: Cost,
    /// Minimum work.
    pub(crate) essential: Cost,
}

impl Core<'_> {
    /// Elements of the state of one key head.
    pub(crate) fn state_len(&self) -> usize {
        self.rows * (self.qkv.dim_v + usize::from(self.normalize))
    }

    /// Elements per segment that describe how the segment decays the state before it: logarithms of factors.
    pub(crate) fn passed_len(&self) -> usize {
        match self.decay {
            Decay::None => 0,
            Decay::Head => 1,
            Decay::Row => self.rows,
            // The logarithm, the running maximum of the segment, and the running maximum that it starts from, which the
            // scan writes.
            Decay::Stabilized => 3,
        }
    }

    /// Number of these elements that the segment kernel writes.
    pub(crate) fn passed_by_segment(&self) -> usize {
        self.passed_len().saturating_sub(usize::from(self.decay == Decay::Stabilized))
    }

    /// Bytes of the running maximum of one key head.
    pub(crate) fn running_max_bytes(&self) -> f64 {
        if self.decay == Decay::Stabilized { 4.0 } else { 0.0 }
    }

    /// Builds the dispatches for this device.
    pub(crate) fn program(&self, state: &Slot, tiles: &Tiles, caps: &Caps) -> Result<Program, Error> {
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &self.slots)?;
        check_indices(self.op, std::slice::from_ref(state))?;
        // The end of the last segment may lie up to one segment beyond the end of the sequence, and is computed in u32.
        check_lengths(self.op, self.qkv)?;
        dispatch::Dispatches::new(self, *tiles, self.walk(tiles, caps)).build(caps)
    }
}
