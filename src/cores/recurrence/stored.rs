//! Features of whole vectors, computed once by a dispatch of their own: its tiles, and the blocks of the sequence for which the
//! workspace holds them.

use std::ops::Range;

use super::kernels::{K, NO_FACTORS, Q, rows};
use super::{Params, Recurrence, WORKGROUP_BYTES};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Named, Operand, Step};
use crate::gpu::shader::{Fragment, Kernel, Variant};

/// Vectors per invocation of the features kernel, elements of a vector in workgroup memory at a time, and the largest number
/// of invocations along the rows of weights.
const EACH: usize = 8;
const SLICE: usize = 16;
const MOST_ROW_THREADS: usize = 16;

/// Features that a dispatch of their own stores, one row per vector.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) kernel: &'static Kernel,
    /// Fragments and consts of that kernel, and floats of workgroup memory that the fragments use per vector and row thread.
    pub(crate) fragments: Vec<Fragment>,
    pub(crate) consts: Vec<(&'static str, u32)>,
    pub(crate) floats: usize,
    /// Whether they need the largest element of a vector.
    pub(crate) largest: bool,
    /// Groups of four rows of weights that vectors are multiplied with.
    pub(crate) products: usize,
    /// vec4s of a row of features, and those of them that a walk loads for each part of the rows of the state.
    pub(crate) row: usize,
    pub(crate) loaded: usize,
    /// Bytes of weights that a workgroup reads.
    pub(crate) weights: f64,
    /// Work for one vector, without reading it: bytes are those of rows of features.
    pub(crate) cost: Cost,
}

impl Stored {
    /// Invocations along the rows of weights and along the vectors.
    fn threads(&self) -> (usize, usize) {
        let turns = self.products.div_ceil(MOST_ROW_THREADS);
        let row_threads = self.products.div_ceil(turns);
        let bytes = |vector_threads: usize| {
            let vectors = EACH * vector_threads;
            4 * (vectors * (SLICE + 2 + self.floats * row_threads) + 4 * SLICE * row_threads)
        };
        (row_threads, if bytes(16) <= WORKGROUP_BYTES { 16 } else { 8 })
    }

    /// Bytes of a row of features.
    fn row_bytes(&self) -> u64 {
        16 * self.row as u64
    }
}

/// Key heads, numbered over all batch entries, and tokens that steps cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) heads: Range<usize>,
    pub(super) tokens: Range<usize>,
}

/// Whose features a dispatch stores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Keys,
    Queries,
    Both,
}

impl Of {
    /// Vectors per token and key head, for `group` query heads per key head.
    pub(super) fn vectors(self, group: usize) -> usize {
        match self {
            Of::Keys => 1,
            Of::Queries => group,
            Of::Both => 1 + group,
        }
    }
}

impl Recurrence<'_> {
    /// Number of key heads over all batch entries.
    pub(super) fn key_units(&self) -> usize {
        self.qkv.batch * self.qkv.key_heads()
    }

    /// Bytes of the features of a token of one key head, of keys or queries or both.
    fn feature_bytes(&self, of: Of) -> u64 {
        let row = self.features.stored.as_ref().map_or(0, Stored::row_bytes);
        row * of.vectors(self.qkv.group()) as u64
    }

    /// The largest number of tokens in a segment whose features fit in the workspace, for one key head with its queries.
    pub(super) fn longest_stored(&self, caps: &Caps) -> usize {
        let fit = most_bytes(caps).checked_div(self.feature_bytes(Of::Both));
        fit.map_or(usize::MAX, |fit| fit.max(1) as usize)
    }

    /// How many times the workspace for features is filled, if all heads fill it together.
    pub(super) fn fillings(&self, tokens: usize, caps: &Caps) -> u64 {
        let bytes = self.feature_bytes(Of::Both) * self.key_units() as u64;
        bytes.saturating_mul(tokens as u64).div_ceil(most_bytes(caps)).max(1)
    }

    /// Splits `tokens` tokens of all heads into blocks of whole segments whose features the workspace holds: all heads of some
    /// segments, or one segment of some heads.
    /// `scores` are bytes that a segment of a key head stores in addition.
    pub(super) fn blocks(
        &self,
        tokens: usize,
        segment: usize,
        of: Of,
        scores: u64,
        caps: &Caps,
    ) -> Result<Vec<Block>, Error> {
        // Where packed sequences begin is not known: their tokens are one block.
        let (segment, scores) = if self.mode.sequences.is_some() { (tokens, 0) } else { (segment, scores) };
        let (units, segments) = (self.key_units(), tokens.div_ceil(segment));
        let one = self.feature_bytes(of).saturating_mul(segment.min(tokens) as u64);
        let limit = caps.largest_binding();
        if one > limit {
            let what = "features of one segment (bytes)".into();
            return Err(Error::Limit { op: self.op.into(), what, needed: one, limit });
        }
        // A segment that was asked for and exceeds the bound is a block of its own.
        let fit =
            most_bytes(caps).checked_div(one.saturating_add(scores)).map_or(usize::MAX, |fit| fit.max(1) as usize);
        let heads = units.div_ceil(units.div_ceil(fit));
        let each = (fit / units).clamp(1, segments);
        let each = segments.div_ceil(segments.div_ceil(each)) * segment;
        let heads = (0..units).step_by(heads).map(|first| first..(first + heads).min(units));
        let blocks = heads.flat_map(|heads| {
            let of_heads = move |first| Block { heads: heads.clone(), tokens: first..(first + each).min(tokens) };
            (0..tokens).step_by(each).map(of_heads)
        });
        Ok(blocks.collect())
    }

    /// Bytes of the features of a block.
    pub(super) fn block_bytes(&self, block: &Block, of: Of) -> u64 {
        self.feature_bytes(of) * (block.heads.len() * block.tokens.len()) as u64
    }

    /// Bytes that a walk loads for the key or the query of one token.
    pub(super) fn vector_bytes(&self) -> f64 {
        match &self.features.stored {
            Some(stored) => 16.0 * stored.loaded as f64,
            None => self.prepared.vector_bytes(self.qkv, 4),
        }
    }

    /// The fragment that multiplies queries and keys by their factors: stored features have them in them.
    pub(super) fn factors(&self) -> Fragment {
        if self.features.stored.is_some() && !self.mode.decode { NO_FACTORS } else { self.prepared.fragment() }
    }

    /// Consts of a walk that loads stored features.
    pub(super) fn stored_consts(&self) -> Vec<(&'static str, u32)> {
        let of = |stored: &Stored| vec![("FEATURES4", stored.row as u32), ("ROW4", stored.loaded as u32)];
        self.features.stored.as_ref().map_or(Vec::new(), of)
    }

    /// The steps that store the features of a block: of its keys, of its queries, or of both.
    pub(super) fn store_features(&self, params: Params, named: &[Named], block: &Block, of: Of) -> Vec<Step> {
        let Some(stored) = &self.features.stored else { return Vec::new() };
        let mut steps = Vec::new();
        if of != Of::Queries {
            steps.push(self.store_vectors(stored, params, named, block, K));
        }
        if of != Of::Keys {
            steps.push(self.store_vectors(stored, params, named, block, Q));
        }
        steps
    }

    /// The step that stores the features of a block's keys or queries.
    fn store_vectors(&self, stored: &Stored, params: Params, named: &[Named], block: &Block, slot: usize) -> Step {
        let s = self.qkv;
        let (row_threads, vector_threads) = stored.threads();
        let heads = if slot == Q { s.group() } else { 1 };
        let tiles = block.tokens.len().div_ceil(EACH * vector_threads) * heads;
        let groups = (block.heads.len() * tiles) as u64;
        let all = (block.heads.len() * block.tokens.len() * heads) as f64;
        let turns = stored.products.div_ceil(row_threads) as f64;
        let mut cost = stored.cost * all;
        let vector = self.prepared.vector_bytes(s, 4);
        cost.bytes_read += all * turns * vector + groups as f64 * stored.weights;
        let mut consts = vec![
            ("ROW_THREADS", row_threads as u32),
            ("VECTOR_THREADS", vector_threads as u32),
            ("PRODUCTS4", stored.products as u32),
            ("FEATURES4", stored.row as u32),
            ("LARGEST", stored.largest.into()),
        ];
        consts.extend(&stored.consts);
        let spec = Variant::new(s.dtype, consts, vec![("QUERIES", (slot == Q).into())])
            .with(&[self.prepared.fragment()])
            .with(&stored.fragments);
        let (spec, narrow) = rows(s, &spec, &[K]);
        let named = [&[("k", Operand::Slot(slot))], named].concat();
        let step = Step::new(stored.kernel, spec, &params, &named, groups, cost).or_narrow(narrow);
        Step { first: (block.heads.start * tiles) as u64, ..step }.own(self.own.first())
    }
}

/// Maximum number of bytes of features, or of scores, in the workspace of this device.
pub(super) fn most_bytes(caps: &Caps) -> u64 {
    caps.feature_bytes.min(caps.largest_binding())
}
