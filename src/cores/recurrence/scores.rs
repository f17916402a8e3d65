//! Scores of pairs of chunks that several workgroups read, stored by a dispatch before: heads of the state that share
//! queries and keys multiply them once, and so do column splits. Pure.

use super::chunk::{self, CHUNK, COLUMNS, SLICE, Visits};
use super::dispatch::Dispatches;
use super::kernels::{K, Q, SCORES_PLACE, SEGMENTS_READ, STORED_VECTORS, spans};
use super::stored::{Block, most_bytes};
use super::{Params, Passes, Recurrence};
use crate::cores::packed::{self, lookup_bytes};
use crate::gpu::program::{Cost, Step};
use crate::gpu::shader::Variant;
use crate::gpu::{Algorithm, Caps};

/// Workgroups that read the same scores, from which on storing them pays: the dispatch that does so has few workgroups.
const READERS: usize = 4;

/// Bytes of the scores of a pair of chunks.
const PAIR_BYTES: usize = 4 * CHUNK * CHUNK;

/// Pairs of chunks of a segment.
fn pairs(segment: usize) -> usize {
    let chunks = segment.div_ceil(CHUNK);
    chunks * (chunks + 1) / 2
}

impl Recurrence<'_> {
    /// Workgroups that read the same scores.
    pub(super) fn score_readers(&self) -> usize {
        self.qkv.shared * self.qkv.dim_v.div_ceil(COLUMNS)
    }

    /// Bytes of the stored scores of a segment of one key head with its queries; 0 if none are stored. Matrix
    /// units multiply faster than scores are loaded.
    pub(super) fn score_bytes(&self, passes: Passes, caps: &Caps) -> u64 {
        let Passes::Chunks { segment } = passes else { return 0 };
        if self.units(caps).is_some() {
            return 0;
        }
        let bytes = (pairs(segment) * PAIR_BYTES * self.qkv.group()) as u64;
        // Packed sequences are not split into blocks.
        let at_once = match self.mode.sequences {
            Some(_) => packed::segments(&self.mode, self.qkv.keys, segment) * self.key_units(),
            None => 1,
        };
        let fits = bytes.saturating_mul(at_once as u64) <= most_bytes(caps);
        let least = if caps.recurrence == Algorithm::Chunks { 2 } else { READERS };
        if fits && self.score_readers() >= least { bytes } else { 0 }
    }
}

impl Dispatches<'_> {
    /// Bytes that the readers of a block's scores load, for each of them.
    pub(super) fn loaded_scores(&self, block: &Block, segment: usize) -> f64 {
        let tokens = block.tokens.len();
        // Packed sequences have more segments, which may all be whole.
        let pairs = match self.c.mode.sequences {
            Some(_) => packed::segments(&self.c.mode, tokens, segment) * pairs(segment),
            None => Visits::of(tokens, segment).pairs,
        };
        (pairs * PAIR_BYTES) as f64
    }

    /// The dispatches that store the scores of a block of whole segments of `segment` tokens, and compute its outputs.
    pub(super) fn scored(&self, segment: usize, block: &Block, params: Params) -> [Option<Step>; 2] {
        [self.scores(segment, block, params), self.chunks(segment, block, params, true)]
    }

    /// The dispatch that stores the scores of a block of whole segments of `segment` tokens.
    fn scores(&self, segment: usize, block: &Block, params: Params) -> Option<Step> {
        let (c, s) = (self.c, self.c.qkv);
        let features = c.features.chunk.as_ref()?;
        let params = Params { col_splits: 1, head_splits: s.group() as u32, ..params };
        let each = u64::from(params.segments) * (pairs(segment) * s.group()) as u64;
        let groups = block.heads.len() as u64 * each;
        let heads = (block.heads.len() * s.group()) as f64;
        let visits = Visits::of(block.tokens.len(), segment);
        let vectors = (visits.keys + visits.queries) as f64;
        let scores = self.loaded_scores(block, segment);
        let cost = Cost {
            flops: heads * scores / 4.0 * 2.0 * features.scored as f64,
            exps: 0.0,
            bytes_read: heads * vectors * c.vector_bytes() + lookup_bytes(&c.mode, false) * groups as f64,
            bytes_written: heads * scores,
        } + c.features.cost * (heads * vectors);
        let mut consts = chunk::consts(c.features.rows, SLICE, segment.div_ceil(CHUNK), false);
        consts.extend(&c.features.consts);
        consts.extend(c.stored_consts());
        let (spans, whole) = spans(&c.mode, false);
        // Borders of packed sequences lie behind the stored states.
        let borders = if c.mode.sequences.is_some() { &[SEGMENTS_READ][..] } else { &[] };
        let own = [self.chunk_lanes, features.keys, SCORES_PLACE];
        let fragments = [&own[..], &[c.factors()], &features.fragments, spans, borders].concat();
        let spec = Variant::new(s.dtype, consts, whole.into_iter().collect()).with(&fragments);
        let step =
            self.step(&c.kernels.scores, self.rows_of(spec, &[], &[K, Q], &STORED_VECTORS[..1]), params, groups, cost);
        Some(Step { first: block.heads.start as u64 * each, ..step })
    }
}
