//! The chunk form of the second pass: when a plan takes it, its dispatch and its cost. Pure.
//!
//! A walk along the tokens multiplies the state by a decay at every token, and has as many workgroups as there are heads and
//! segments. The chunk form computes the outputs of [`CHUNK`] tokens by products of matrices: of queries with the state before
//! their segment, and of queries, keys and values with each other. Decays act on the products, as differences of sums of log
//! decays. A segment has few chunks, because every chunk reads those of its segment before it.

use super::dispatch::Dispatches;
use super::kernels::{CHUNK_DECAY, CHUNK_NO_DECAY, CHUNK_VALUES, DECAY_TOKENS, NO_DECAY, O, STATES_READ, V, spans};
use super::stored::Block;
use super::{DecayKind, Params, Recurrence};
use crate::cores::packed::{self, lookup_bytes};
use crate::gpu::program::{Cost, Step};
use crate::gpu::shader::Fragment;
use crate::gpu::{Algorithm, Caps};

/// Tokens of a chunk.
pub(super) const CHUNK: usize = 64;

/// Most chunks of a segment.
const MOST_CHUNKS: usize = 4;

/// Invocations along the tokens and along the columns, four columns each.
const ROW_THREADS: usize = 8;
pub(super) const COL_THREADS: usize = 16;

/// Columns of a workgroup.
const COLUMNS: usize = 4 * COL_THREADS;

/// Rows of a state from which on a segment has two chunks: the products within it cost less than reading and writing a state.
const WIDE: usize = 128;

impl Recurrence<'_> {
    /// Tokens of a segment of the chunk form, or why a run walks along the tokens.
    pub(super) fn chunk_segment(&self, caps: &Caps) -> Result<usize, &'static str> {
        let (s, rows) = (self.qkv, self.features.rows);
        let decays = match self.decay.kind {
            DecayKind::None => false,
            DecayKind::PerHead => true,
            DecayKind::PerRow => return Err("each row of a state decays on its own"),
            DecayKind::Stabilized => return Err("features are relative to a running maximum"),
        };
        if !self.mode.causal {
            return Err("every query reads the same state");
        }
        if self.features.chunk.is_none() || self.row_splits() > 1 {
            return Err("features of a chunk are not to be had");
        }
        let most = MOST_CHUNKS * CHUNK;
        if self.mode.segment.is_some_and(|segment| segment > most) {
            return Err("the segments asked for are long");
        }
        match caps.recurrence {
            Algorithm::Walk => return Err("asked for"),
            Algorithm::Fastest if !decays && rows < WIDE => return Err("the state is narrow and does not decay"),
            // The rest of a tile would be wasted.
            Algorithm::Fastest if 2 * s.dim_v <= COLUMNS || 2 * rows < CHUNK => return Err("the state is small"),
            Algorithm::Fastest | Algorithm::Chunks => {}
        }
        if let Some(segment) = self.mode.segment {
            return Ok(segment.min(s.keys));
        }
        let least = if rows < WIDE { CHUNK } else { 2 * CHUNK };
        // Longer ones where the states of all segments do not fit one binding.
        let fits = |segment: &usize| s.keys.div_ceil(*segment) <= self.most_segments(caps);
        let segment =
            (least..=most).step_by(least).find(fits).ok_or("states of short segments do not fit a binding")?;
        Ok(segment.min(s.keys))
    }

    /// What the chunk form takes in place of what a walk does.
    fn chunk_decay(&self) -> Vec<Fragment> {
        let own = |fragment: &Fragment| match *fragment {
            DECAY_TOKENS => CHUNK_DECAY,
            fragment if fragment == NO_DECAY[0] => CHUNK_NO_DECAY,
            other => other,
        };
        self.decay.tiled.iter().map(own).collect()
    }
}

/// What the workgroups of a column split process in all segments of a head.
#[derive(Default)]
struct Visits {
    /// Chunks of queries.
    chunks: usize,
    /// Queries, counted once for each chunk of keys that they are multiplied with.
    queries: usize,
    /// Keys, counted once for each chunk of queries that reads them.
    keys: usize,
    /// Pairs of chunks.
    pairs: usize,
}

impl Visits {
    /// Of so many tokens in segments of `length`.
    fn of(tokens: usize, length: usize) -> Self {
        let mut all = Self::default();
        for (segments, length) in [(tokens / length, length), (1, tokens % length)] {
            for first in (0..length).step_by(CHUNK) {
                let own = CHUNK.min(length - first);
                let pairs = first / CHUNK + 1;
                all.chunks += segments;
                all.queries += segments * own * pairs;
                all.keys += segments * (first + own);
                all.pairs += segments * pairs;
            }
        }
        all
    }
}

impl Dispatches<'_> {
    /// The dispatch that computes the outputs of a block of whole segments of `length` tokens.
    pub(super) fn chunks(&self, length: usize, block: &Block, params: Params) -> Step {
        let (c, s) = (self.c, self.c.qkv);
        let kv = self.kv(block) as f64;
        let splits = s.dim_v.div_ceil(COLUMNS);
        let params = Params { col_splits: splits as u32, head_splits: s.group() as u32, ..params };
        let chunks = length.div_ceil(CHUNK);
        let each = u64::from(params.segments) * (splits * s.group() * chunks) as u64;
        let (group, splits) = (s.group() as f64, splits as f64);
        let all = kv * group * splits;
        let visits = Visits::of(block.tokens.len(), length);
        let outputs = kv * group * block.tokens.len() as f64;
        let covered = outputs / self.rows() as f64;
        let (loaded, queries) = (visits.keys as f64, visits.queries as f64);
        // Packed sequences have more segments, and their chunks read a state each.
        let states = match c.mode.sequences {
            Some(_) => packed::segments(&c.mode, block.tokens.len(), length) * chunks,
            None => visits.chunks,
        } as f64;
        let norm = if c.normalize.is_some() { splits } else { 0.0 };
        let state = 4.0 * c.features.rows as f64 * (s.dim_v as f64 + norm);
        let value = (s.dtype.size() * s.dim_v) as f64;
        let products = (visits.pairs * CHUNK * CHUNK) as f64;
        let features = c.features.rows.next_multiple_of(16) as f64;
        let cost = Cost {
            flops: all
                * 2.0
                * (products * (features + COLUMNS as f64) + (visits.chunks * CHUNK) as f64 * features * COLUMNS as f64),
            exps: if c.decay.kind == DecayKind::None { 0.0 } else { all * products },
            bytes_read: all * (loaded + queries) * c.vector_bytes()
                + kv * group * (loaded * value + states * state)
                + if c.epilogue.reads_values { outputs * value } else { 0.0 }
                + lookup_bytes(&c.mode, false) * kv * each as f64
                + self.run.bytes_added(&self.runs) * covered,
            bytes_written: self.runs.output_bytes() * covered,
        } + c.decay.cost * (all * loaded)
            + c.features.cost * (all * (loaded + queries))
            + c.epilogue.cost * outputs;
        let f = &c.features;
        let mut consts = vec![
            ("ROW_THREADS", ROW_THREADS as u32),
            ("COL_THREADS", COL_THREADS as u32),
            ("WIDTH", f.rows as u32),
            ("CHUNKS", chunks.min(MOST_CHUNKS) as u32),
        ];
        consts.extend(&f.consts);
        consts.extend(c.stored_consts());
        let (spans, whole) = spans(&c.mode, false);
        let mut overrides = vec![("SUMMED", self.run.summed.into())];
        overrides.extend(whole);
        overrides.extend(&c.epilogue.overrides);
        let chunk = f.chunk.as_deref().unwrap_or_default();
        let decay = c.chunk_decay();
        let fragments = [&[self.chunk_lanes, CHUNK_VALUES][..], chunk, &decay, &c.epilogue.tiled];
        let spec = self.spec(&fragments, false, consts, overrides).with(&[self.runs.outputs()]).with(spans);
        let step = self.step(
            &c.kernels.chunk,
            self.rows_of(spec, &[V, O, STATES_READ], 2),
            params,
            self.kv(block) * each,
            cost,
        );
        self.number(step, block, each).own(c.own.first())
    }
}
