//! Recurrences with a state, host side: tiles, segments, uniforms, workspace and dispatches of the kernels in
//! `shaders/cores/recurrence`. Pure.
//!
//! The state of a key head is a matrix with one row per feature and one column per value dimension. Keys and values
//! write it, queries read it. An operator describes its features, its decay and its outputs (`Recurrence`); the
//! kernels are composed from fragments that belong to these.
//!
//! Memory traffic: with `s` column splits, one pass reads q and k `s` times, reads v once and writes o once. Two passes
//! read k another `s` times and v once more. In total this is `(3 s + 3) / 4` times the bytes of q, k, v and o if D = E
//! and H = G. If many query heads share a key head, every head split ([`Tiles::head_splits`]) reads its keys and values
//! again. The plan chooses segments so long that the traffic of their states stays below a tenth of that of q, k, v and
//! o; if this would leave part of the device idle, below a half.

pub(crate) mod chunk;
mod convolved;
#[cfg(feature = "cpu")]
pub(crate) mod cpu;
#[cfg(feature = "cpu")]
pub(crate) mod cpu_decay;
pub(crate) mod decode;
pub(crate) mod dispatch;
pub(crate) mod kernels;
mod matrix;
pub(crate) mod reference;
pub(crate) mod runs;
mod scores;
mod segment;
mod stored;
mod tiles;

use std::mem::offset_of;

use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Own, Program, Scratch, Step, check_indices};
use crate::gpu::shader::{Fragment, params};
use crate::operator::mode::Mode;
use crate::operator::qkv::Qkv;
use crate::operator::qkv::{Strides, check_lengths};
use crate::tensor::Slot;
use kernels::Kernels;
use runs::Runs;

pub(crate) use convolved::Convolved;
pub(crate) use stored::Stored;
pub(crate) use tiles::{MOST_ROWS, WORKGROUP_BYTES};
pub(crate) use tiles::{Passes, Tiles, few, few_told};

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
        pub(crate) state_len: u32,
        pub(crate) share: u32,
        pub(crate) extra_state: u32,
        pub(crate) sequences: u32,
        pub(crate) q: Strides,
        pub(crate) k: Strides,
        pub(crate) v: Strides,
        pub(crate) o: Strides,
        pub(crate) g: Strides,
        pub(crate) beta: Strides,
        pub(crate) q_factor: Strides,
        pub(crate) k_factor: Strides,
        pub(crate) first: u32,
        pub(crate) end: u32,
        pub(crate) read_page: u32,
        pub(crate) write_page: u32,
        pub(crate) first_unit: u32,
        pub(crate) query_features: u32,
        pub(crate) first_segment: u32,
        pub(crate) _pad: u32,
    }
}

/// Slots of q, k, v and o (0 to 3), with the byte offsets of their strides in [`Params`].
pub(crate) const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Byte offsets in [`Params`] of the strides of the decay tensor, and of those of o.
pub(crate) const GATE_STRIDES: usize = offset_of!(Params, g);
const O_STRIDES: usize = offset_of!(Params, o);

/// How a token's decay acts on the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecayKind {
    /// No decay.
    None,
    /// One factor for all rows.
    PerHead,
    /// One factor per row.
    PerRow,
    /// One factor for all rows of a state that is stored relative to a running maximum. A carried state stores the
    /// running maximum after its sums.
    Stabilized,
}

impl DecayKind {
    /// Value of the const DECAY in the shaders.
    pub(crate) fn number(self) -> u32 {
        match self {
            DecayKind::None => 0,
            DecayKind::PerHead | DecayKind::Stabilized => 1,
            DecayKind::PerRow => 2,
        }
    }
}

/// What dispatches before the kernels compute, and where the kernels find it.
#[derive(Default)]
pub(crate) struct Prepared {
    pub(crate) steps: Vec<Step>,
    /// The buffers, which are the first of the workspace.
    pub(crate) workspace: Vec<Scratch>,
    /// Buffers of the kernels with prepared contents.
    pub(crate) operands: Vec<Named>,
    /// Strides of the factors that queries and keys are multiplied by, if there are any.
    pub(crate) factors: Option<[Strides; 2]>,
}

impl Prepared {
    /// What the buffers of the kernels are bound to: those with prepared contents, sums of outputs, the operator's own, and the
    /// workspace of the walk, in the order in which the program has them.
    pub(crate) fn operands(
        &self,
        runs: &Runs<'_>,
        own: impl Iterator<Item = Named>,
        walk: &[&'static str],
    ) -> Vec<Named> {
        let count = self.workspace.len();
        let sums = runs.scratch().map(|_| ("o", Operand::Workspace(count)));
        let first = count + usize::from(sums.is_some());
        let walk = walk.iter().copied().zip((first..).map(Operand::Workspace));
        self.operands.iter().copied().chain(sums).chain(own).chain(walk).collect()
    }

    /// The fragment that multiplies queries and keys by their factors.
    pub(crate) fn fragment(&self) -> Fragment {
        if self.factors.is_some() { kernels::FACTORS } else { kernels::NO_FACTORS }
    }

    /// Bytes of a vector of q or k with its factors: one factor for every `elements` elements.
    pub(crate) fn vector_bytes(&self, s: &Qkv, elements: usize) -> f64 {
        (s.dim_k * s.dtype.size()) as f64 + self.factor_bytes(s, elements)
    }

    /// Bytes that are read in addition for each vector of q and k: one factor for every `elements` elements.
    pub(crate) fn factor_bytes(&self, s: &Qkv, elements: usize) -> f64 {
        if self.factors.is_some() { 4.0 * s.dim_k.div_ceil(elements) as f64 } else { 0.0 }
    }
}

/// How the state decays before a token writes.
pub(crate) struct Decay {
    pub(crate) kind: DecayKind,
    /// The slot of the decay tensor, unless it is prepared or the same for all tokens, and its strides.
    pub(crate) slot: Option<usize>,
    pub(crate) strides: Strides,
    /// Fragments for tiles of tokens, and for one token.
    pub(crate) tiled: Vec<Fragment>,
    pub(crate) decode: Vec<Fragment>,
    /// Work to compute the decay of one token of one key head.
    pub(crate) cost: Cost,
}

/// The features of keys and queries.
pub(crate) struct Features {
    /// Rows of the state.
    pub(crate) rows: usize,
    /// Fragments of the segment and output kernels, more of the output kernel, and fragments of the decode kernel.
    pub(crate) keys: Vec<Fragment>,
    pub(crate) queries: Vec<Fragment>,
    pub(crate) decode: Vec<Fragment>,
    /// What the kernel that computes outputs of chunks takes in place of them; `None` if it cannot have the features.
    pub(crate) chunk: Option<ChunkFeatures>,
    /// Consts of the segment and output kernels, and of the decode kernel.
    pub(crate) consts: Vec<(&'static str, u32)>,
    pub(crate) decode_consts: Vec<(&'static str, u32)>,
    /// Number of dispatches that share the rows of a state, if the fragments can split them.
    pub(crate) row_splits: Option<usize>,
    /// Work to compute the features of one token once, without reading the token.
    pub(crate) cost: Cost,
    /// Features that are computed in a dispatch of their own; `None` if a walk computes them from the vectors that it loads.
    pub(crate) stored: Option<Stored>,
}

/// The features of keys and queries for products of chunks.
pub(crate) struct ChunkFeatures {
    /// Fragments of queries and of the state, and of keys.
    pub(crate) fragments: Vec<Fragment>,
    pub(crate) keys: Fragment,
    /// Whether they are f16 where the elements are.
    pub(crate) exact: bool,
    /// Multiplications of a score, fewer than features if these are products of two factors.
    pub(crate) scored: usize,
    /// Bytes that are read of a query for its products with a state, if these are not what its scores are made of.
    pub(crate) state_bytes: Option<f64>,
}

impl ChunkFeatures {
    /// So many features that `map` makes of the elements one by one.
    pub(crate) fn mapped(map: Fragment, rows: usize) -> Self {
        let [both, keys, queries] = kernels::CHUNK_MAPPED;
        let exact = map == kernels::IDENTITY;
        Self { fragments: vec![map, both, queries], keys, exact, scored: rows, state_bytes: None }
    }
}

/// What happens to outputs after they are normalised.
pub(crate) struct Epilogue {
    /// Fragments for tiles of tokens, and for one token, with their overrides.
    pub(crate) tiled: Vec<Fragment>,
    pub(crate) decode: Vec<Fragment>,
    pub(crate) overrides: Vec<(&'static str, u32)>,
    /// A slot with the shape of o that is read with it, and split together with it.
    pub(crate) beside_o: Option<usize>,
    /// Whether it reads the values of its token.
    pub(crate) reads_values: bool,
    /// Work for one row of outputs.
    pub(crate) cost: Cost,
}

/// The carried state.
pub(crate) struct CarriedState {
    pub(crate) slot: Slot,
    /// Whether it is stored column by column.
    pub(crate) transposed: bool,
    /// First element of what follows the sums: positions or running maxima.
    pub(crate) extra: usize,
    /// Whether positions follow the sums, one copy per key head.
    pub(crate) position: bool,
}

/// An operator whose state is a matrix of features by values.
pub(crate) struct Recurrence<'a> {
    pub(crate) op: &'static str,
    pub(crate) qkv: &'a Qkv,
    /// Slots q, k, v, o, then the operator's own, then the state if it is carried. Another order if vectors are convolved.
    pub(crate) slots: Vec<Slot>,
    /// The convolution that decoding a token begins with.
    pub(crate) convolved: Option<Convolved>,
    /// Buffers of the kernels that have another name than their slot, with the name of the slot.
    pub(crate) aliases: &'static [(&'static str, &'static str)],
    pub(crate) kernels: &'static Kernels,
    pub(crate) prepared: Prepared,
    pub(crate) features: Features,
    pub(crate) decay: Decay,
    pub(crate) epilogue: Epilogue,
    pub(crate) state: CarriedState,
    /// The number added to the denominator; `None` if sums are not normalised.
    pub(crate) normalize: Option<f32>,
    pub(crate) scale: f32,
    pub(crate) mode: Mode,
    /// Overrides of the segment, output and decode kernels.
    pub(crate) overrides: Vec<(&'static str, u32)>,
    /// The operator's own uniform, for each part that the rows of the state are split into.
    pub(crate) own: Vec<Own>,
    /// Minimum work, and bytes that decoding reads in addition to it and to repeated reads of states and values.
    pub(crate) essential: Cost,
    pub(crate) decode_more: f64,
}

impl Recurrence<'_> {
    /// Elements of the state of one key head.
    pub(crate) fn state_len(&self) -> usize {
        self.features.rows * (self.qkv.dim_v + usize::from(self.normalize.is_some()))
    }

    /// Elements per segment that describe how the segment decays the state before it: logarithms of factors.
    pub(crate) fn passed_len(&self) -> usize {
        match self.decay.kind {
            DecayKind::None => 0,
            DecayKind::PerHead => 1,
            DecayKind::PerRow => self.features.rows,
            // The logarithm, the running maximum of the segment, and the running maximum that it starts from, which the
            // scan writes.
            DecayKind::Stabilized => 3,
        }
    }

    /// Number of these elements that the segment kernel writes.
    pub(crate) fn passed_by_segment(&self) -> usize {
        self.passed_len().saturating_sub(usize::from(self.decay.kind == DecayKind::Stabilized))
    }

    /// Bytes of the running maximum of one key head.
    pub(crate) fn running_max_bytes(&self) -> f64 {
        if self.decay.kind == DecayKind::Stabilized { 4.0 } else { 0.0 }
    }

    /// Slots of q, k, v and o with the byte offsets of their strides in [`Params`], those of them that are tensors of their
    /// own.
    fn strided_slots(&self) -> Vec<(usize, usize)> {
        self.convolved.as_ref().map_or_else(|| STRIDES.to_vec(), |convolved| vec![(convolved.output, O_STRIDES)])
    }

    /// Number of dispatches that share the rows of a state.
    pub(crate) fn row_splits(&self) -> usize {
        self.features.row_splits.unwrap_or(1)
    }

    /// Builds the dispatches for this device.
    pub(crate) fn program(&self, tiles: &Tiles, caps: &Caps) -> Result<Program, Error> {
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &self.slots)?;
        check_indices(self.op, std::slice::from_ref(&self.state.slot))?;
        // The end of the last segment may lie up to one segment beyond the end of the sequence, and is computed in u32.
        check_lengths(self.op, self.qkv)?;
        dispatch::Dispatches::new(self, *tiles, self.walk(tiles, caps), caps).build(caps)
    }
}
