//! The chunk form of the second pass: when a plan takes it, its dispatch and its cost. Pure.
//!
//! A walk along the tokens multiplies the state by a decay at every token, and has as many workgroups as there are heads and
//! segments. The chunk form computes the outputs of [`CHUNK`] tokens by products of matrices: of queries with the state before
//! their segment, and of queries, keys and values with each other. Decays act on the products, as differences of sums of log
//! decays. A segment has few chunks, because every chunk reads those of its segment before it. Features that are products of two
//! factors are had for the products with the state alone: a score is the product of those of the factors.

use super::dispatch::Dispatches;
use super::kernels::{
    CHUNK_DECAY, CHUNK_NO_DECAY, CHUNK_VALUES, DECAY_TOKENS, K, NO_DECAY, O, Q, SCORES_COMPUTED, SCORES_PLACE,
    SCORES_STORED, STATES_READ, STORED_VECTORS, V, spans,
};
use super::matrix::SEGMENT;
use super::stored::Block;
use super::{DecayKind, Params, Passes, Recurrence, Tiles};
use crate::cores::matrix;
use crate::cores::packed::{self, lookup_bytes};
use crate::gpu::program::{Cost, Step};
use crate::gpu::shader::Fragment;
use crate::gpu::{Algorithm, Caps};

/// Tokens of a chunk.
pub(crate) const CHUNK: usize = 64;

/// Most chunks of a segment.
const MOST_CHUNKS: usize = 4;

/// Invocations along the tokens and along the columns, four columns each.
pub(crate) const ROW_THREADS: usize = 8;
pub(crate) const COL_THREADS: usize = 16;

/// Groups of four features in workgroup memory at a time.
pub(crate) const SLICE: usize = 4;

/// Columns of a workgroup.
pub(crate) const COLUMNS: usize = 4 * COL_THREADS;

/// Registers of an invocation from which on chunks before a chunk's own do not spill: Apple's M1 stores 75.
const REGISTERS: u32 = 256;

/// Rows of a state from which on a segment has two chunks: the products within it cost less than reading and writing a state.
const WIDE: usize = 128;

impl Recurrence<'_> {
    /// Tokens of a segment of the chunk form, or why a run walks along the tokens.
    pub(super) fn chunk_segment(&self, tiles: &Tiles, caps: &Caps) -> Result<usize, &'static str> {
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
        if self.row_splits() > 1 {
            return Err("a workgroup does not hold all rows of a state");
        }
        let Some(features) = &self.features.chunk else {
            return Err("features of a chunk are not to be had");
        };
        // Then scores take fewer multiplications than the state, which a walk multiplies twice per token.
        let factored = features.scored < rows;
        let most = MOST_CHUNKS * CHUNK;
        let units = self.units(caps);
        if self.mode.segment.is_some_and(|segment| segment > most) {
            return Err("the segments asked for are long");
        }
        match caps.recurrence {
            Algorithm::Walk => return Err("asked for"),
            Algorithm::Fastest if caps.software => return Err("a software adapter walks faster"),
            Algorithm::Fastest if !decays && !factored && units.is_none() => return Err("the state does not decay"),
            // The rest of a tile would be wasted.
            Algorithm::Fastest if 2 * s.dim_v <= COLUMNS || 2 * rows < CHUNK => return Err("the state is small"),
            Algorithm::Fastest if !decays && units.is_none() && rows < WIDE => return Err("the state is small"),
            // It computes no states of segments, which take a third of what the chunk form issues.
            Algorithm::Fastest
                if !(factored && rows >= 2 * WIDE && s.keys >= CHUNK)
                    && self.by_token(tiles, caps) == Passes::Sequential =>
            {
                return Err("one pass is enough for so many heads or so few tokens");
            }
            Algorithm::Fastest | Algorithm::Chunks => {}
        }
        if let Some(segment) = self.mode.segment {
            return Ok(segment.min(s.keys));
        }
        // Products with chunks before a chunk's own need many registers.
        let least = match rows {
            _ if units.is_some() => SEGMENT,
            _ if caps.registers < REGISTERS => CHUNK,
            ..WIDE => CHUNK,
            _ if factored && rows >= 4 * WIDE => most,
            _ => 2 * CHUNK,
        };
        let most = if units.is_some() { SEGMENT } else { most };
        // Longer ones where the states of all segments do not fit one binding.
        let fits = |segment: &usize| s.keys.div_ceil(*segment) <= self.most_segments(caps);
        let segment =
            (least..=most).step_by(least).find(fits).ok_or("states of short segments do not fit a binding")?;
        Ok(segment.min(s.keys))
    }
}

/// What the chunk form takes in place of the decay of a walk.
pub(crate) fn decay(tiled: &[Fragment]) -> Vec<Fragment> {
    let own = |fragment: &Fragment| match *fragment {
        DECAY_TOKENS => CHUNK_DECAY,
        fragment if fragment == NO_DECAY[0] => CHUNK_NO_DECAY,
        other => other,
    };
    tiled.iter().map(own).collect()
}

/// Consts of a kernel that multiplies chunks, for features of this width, so many groups of four of them in workgroup memory at
/// a time, and so many chunks a segment; `state` says whether it also multiplies with a state.
pub(crate) fn consts(width: usize, slice: usize, chunks: usize, state: bool) -> Vec<(&'static str, u32)> {
    let consts = [
        ("ROW_THREADS", ROW_THREADS),
        ("COL_THREADS", COL_THREADS),
        ("WIDTH", width),
        ("SLICE4", slice),
        ("CHUNKS", chunks),
        ("READS_STATE", state.into()),
    ];
    consts.map(|(name, value)| (name, value as u32)).into()
}

/// The work of the kernel that computes outputs of chunks, beside that of features and of what follows the sums.
pub(crate) struct Outputs {
    /// Query heads over all batch entries.
    pub(crate) heads: f64,
    pub(crate) visits: Visits,
    /// Width of the features, multiplications of a score (0 if it is stored), and width of the values.
    pub(crate) width: usize,
    pub(crate) scored: usize,
    pub(crate) dim_v: usize,
    /// Bytes that are read of a vector for scores, of the values of a token, and of a state, in all column splits.
    pub(crate) vector: f64,
    pub(crate) value: f64,
    pub(crate) state: f64,
    /// States that are read, if not one a chunk.
    pub(crate) states: Option<usize>,
    /// Work for the decay of a token, if there is one.
    pub(crate) decay: Option<Cost>,
}

impl Outputs {
    pub(crate) fn cost(&self) -> Cost {
        let visits = &self.visits;
        let splits = self.dim_v.div_ceil(COLUMNS) as f64;
        let products = (visits.pairs * CHUNK * CHUNK) as f64;
        let [features, scored] = [self.width, self.scored].map(|width| width.next_multiple_of(16) as f64);
        let states = self.states.unwrap_or(visits.chunks) as f64;
        let touched = products * (scored + COLUMNS as f64) + (visits.chunks * CHUNK) as f64 * features * COLUMNS as f64;
        let vectors = (visits.keys + visits.queries) as f64;
        let own = Cost {
            flops: splits * 2.0 * touched,
            exps: if self.decay.is_some() { splits * products } else { 0.0 },
            bytes_read: splits * vectors * self.vector + visits.keys as f64 * self.value + states * self.state,
            bytes_written: 0.0,
        };
        (own + self.decay.unwrap_or_default() * (splits * visits.keys as f64)) * self.heads
    }
}

/// What the workgroups of a column split process in all segments of a head.
#[derive(Default)]
pub(crate) struct Visits {
    /// Chunks of queries.
    pub(crate) chunks: usize,
    /// Queries, counted once for each chunk of keys that they are multiplied with.
    pub(super) queries: usize,
    /// Keys, counted once for each chunk of queries that reads them.
    pub(super) keys: usize,
    /// Pairs of chunks.
    pub(super) pairs: usize,
}

impl Visits {
    /// The visits of so many tokens in segments of `length`.
    pub(crate) fn of(tokens: usize, length: usize) -> Self {
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
    /// The dispatch that computes the outputs of a block of whole segments of `length` tokens. `scored` says that their
    /// scores are stored.
    pub(super) fn chunks(&self, length: usize, block: &Block, params: Params, scored: bool) -> Option<Step> {
        let (c, s) = (self.c, self.c.qkv);
        let f = &c.features;
        let features = f.chunk.as_ref()?;
        let kv = self.kv(block) as f64;
        let splits = s.dim_v.div_ceil(COLUMNS);
        let params = Params { col_splits: splits as u32, head_splits: s.group() as u32, ..params };
        let chunks = length.div_ceil(CHUNK);
        let each = u64::from(params.segments) * (splits * s.group() * chunks) as u64;
        let heads = kv * s.group() as f64;
        let visits = Visits::of(block.tokens.len(), length);
        let vectors = heads * splits as f64 * (visits.keys + visits.queries) as f64;
        let outputs = heads * block.tokens.len() as f64;
        let covered = outputs / self.rows() as f64;
        let value = (s.dtype.size() * s.dim_v) as f64;
        // Every column split reads the sums of features.
        let columns = s.dim_v + if c.normalize.is_some() { splits } else { 0 };
        let of_outputs = Outputs {
            heads,
            visits,
            width: c.features.rows,
            scored: if scored { 0 } else { features.scored },
            dim_v: s.dim_v,
            vector: if scored { 0.0 } else { c.vector_bytes() },
            value,
            state: (4 * c.features.rows * columns) as f64,
            // Packed sequences have more segments, and their chunks read a state each.
            states: c.mode.sequences.map(|_| packed::segments(&c.mode, block.tokens.len(), length) * chunks),
            decay: (c.decay.kind != DecayKind::None).then_some(c.decay.cost),
        };
        let scores = if scored { heads * self.loaded_scores(block, length) } else { 0.0 };
        let of_state = features.state_bytes.unwrap_or(if scored { c.vector_bytes() } else { 0.0 });
        let more = Cost {
            bytes_read: lookup_bytes(&c.mode, false) * kv * each as f64
                + (scores + outputs * of_state) * splits as f64
                + self.run.bytes_added(&self.runs) * covered
                + if c.epilogue.reads_values { outputs * value } else { 0.0 },
            bytes_written: self.runs.output_bytes() * covered,
            ..Cost::default()
        };
        let cost = of_outputs.cost() + more + c.features.cost * vectors + c.epilogue.cost * outputs;
        let (spans, whole) = spans(&c.mode, false);
        let mut overrides = vec![("SUMMED", self.run.summed.into())];
        overrides.extend(whole);
        overrides.extend(&c.epilogue.overrides);
        let own = [self.chunk_lanes, CHUNK_VALUES];
        let (kernel, consts, scores) = if let Some(units) = self.matrix {
            let mut consts = c.matrix_consts(units);
            consts.push(("CHUNKS", chunks as u32));
            (&c.kernels.chunk_matrix, consts, [matrix::products(units).1, &[features.keys]].concat())
        } else {
            let mut consts = consts(f.rows, SLICE, chunks, true);
            consts.extend(&f.consts);
            consts.extend(c.stored_consts());
            let scores = if scored { [SCORES_PLACE, SCORES_STORED] } else { [SCORES_COMPUTED, features.keys] };
            (&c.kernels.chunk, consts, scores.into())
        };
        let decay = decay(&c.decay.tiled);
        let fragments = [&own[..], &scores, &features.fragments, &decay, &c.epilogue.tiled];
        let vectors = if scored { &[Q][..] } else { &[K, Q] };
        let spec = self.spec(&fragments, false, consts, overrides).with(&[self.runs.outputs()]).with(spans);
        let specs = self.rows_of(spec, &[V, O, STATES_READ], vectors, &STORED_VECTORS[..1]);
        let step = self.step(kernel, specs, params, self.kv(block) * each, cost);
        Some(self.number(step, block, each).own(c.own.first()))
    }
}
