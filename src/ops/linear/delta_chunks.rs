//! The delta rules by products of chunks: what tokens of each chunk write is solved for all chunks at once, up to the state before
//! them; a walk along the chunks finds these states; then outputs are computed as under the other rules
//! ([`chunk`](crate::cores::recurrence::chunk)). Pure: no wgpu type.
//!
//! Workspace: `D + E` numbers a token and head of what is solved, and a state a chunk, for a step of the sequence at a time.

use super::Config;
use super::delta::{Dispatches, STRENGTH, tiles};
use super::layout::KERNELS;
use crate::cores::lanes::lanes;
use crate::cores::packed::{self, lookup_bytes};
use crate::cores::recurrence::chunk::{self, CHUNK, COL_THREADS, COLUMNS, Outputs, ROW_THREADS, SLICE, Visits};
use crate::cores::recurrence::kernels::*;
use crate::cores::recurrence::{DecayKind, Params};
use crate::gpu::program::{Cost, Scratch, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, fragment};
use crate::gpu::{Algorithm, Caps};

const SOLVED: Fragment = fragment!("linear/delta_solved.wgsl");
const VALUES: Fragment = fragment!("linear/delta_values.wgsl");
const COLUMN: Fragment = fragment!("linear/delta_column.wgsl");
const COLUMN_LOOP: Fragment = fragment!("linear/delta_column_loop.wgsl");
const PREPARE_SOURCES: [Fragment; 8] = followed(CHUNKS, fragment!("linear/delta_prepare.wgsl"));
const SCAN_SOURCES: [Fragment; 7] = followed(CHUNK_WALK, fragment!("linear/delta_scan.wgsl"));

static PREPARE: Kernel = Kernel::new("linear_delta_prepare", &PREPARE_SOURCES, Params::UNIFORM, Some(PROOF));
static SCAN: Kernel = Kernel::new("linear_delta_scan", &SCAN_SOURCES, Params::UNIFORM, Some(PROOF));

/// The largest D: a workgroup of the walk holds all rows of a state.
const MOST_ROWS: usize = 128;

/// Columns of a state per workgroup of the walk, four an invocation, and invocations along its rows.
const SCAN_COLUMNS: usize = 16;
const SCAN_ROW_THREADS: usize = 32;

/// Groups of features in workgroup memory at a time, beside the matrix of the system.
const PREPARE_SLICE: usize = 2;

/// The shortest chunk that pays.
const LEAST: usize = 16;

/// Tokens of a chunk, or why a run walks along the tokens instead.
pub(super) fn length(c: &Config, caps: &Caps) -> Result<usize, &'static str> {
    if super::layout::decays(c) == DecayKind::PerRow {
        return Err("each row of a state decays on its own");
    }
    if c.qkv.dim_k > MOST_ROWS {
        return Err("a workgroup does not hold all rows of a state");
    }
    match caps.recurrence {
        Algorithm::Walk => return Err("asked for"),
        Algorithm::Fastest if caps.software => return Err("more workgroups are no gain on a software adapter"),
        Algorithm::Fastest if 2 * c.qkv.dim_v <= COLUMNS || 2 * c.qkv.dim_k < CHUNK => {
            return Err("the state is small");
        }
        Algorithm::Fastest if fills(c, caps) => return Err("heads fill the device"),
        Algorithm::Fastest | Algorithm::Chunks => {}
    }
    // Chunks end where segments end. They do not depend on the length of the sequence.
    let Some(segment) = c.mode.segment else { return Ok(CHUNK) };
    let divides = |length: &usize| segment.is_multiple_of(*length);
    let longest = (1..=CHUNK).rev().find(divides).unwrap_or(1);
    let asked = caps.recurrence == Algorithm::Chunks;
    if longest >= LEAST || segment < LEAST || asked { Ok(longest) } else { Err("segments are not made of chunks") }
}

/// Whether workgroups that walk along the tokens fill half the device.
fn fills(c: &Config, caps: &Caps) -> bool {
    let t = tiles(c);
    2 * (c.mode.states(c.qkv.batch) * c.qkv.kv_heads * t.col_splits * t.head_splits) as u64 >= caps.full_groups
}

/// The dispatches of one run in chunks.
pub(super) struct Chunks<'a> {
    walk: &'a Dispatches<'a>,
    caps: &'a Caps,
    length: usize,
    /// Stored segments of the whole run, and of a step at most.
    segments: usize,
    each: usize,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(walk: &'a Dispatches<'a>, length: usize, caps: &'a Caps) -> Self {
        let (c, s) = (walk.c, &walk.c.qkv);
        let segments = packed::segments(&c.mode, s.keys, length);
        let mut chunks = Self { walk, caps, length, segments, each: segments };
        let bytes = chunks.solved_bytes().max(4 * u64::from(walk.params.state_len));
        let most = caps.feature_bytes.min(caps.largest_binding()) / (s.kv_units() as u64 * bytes);
        // A dispatch that walks along the chunks ends before a watchdog ends it.
        let work = 4.0 * (chunks.length * s.dim_k * SCAN_COLUMNS) as f64;
        let long = (caps.dispatch_flops / (caps.full_groups as f64 * work)) as u64;
        chunks.each = (most.min(long).max(1) as usize).min(segments);
        chunks
    }

    /// vec4s of what a chunk writes and removes, per token.
    fn widths(&self) -> [usize; 2] {
        [self.walk.c.qkv.dim_v, self.walk.c.qkv.dim_k].map(|dim| dim.div_ceil(4))
    }

    /// Bytes of what is solved of a chunk: its rows, what is left of each token's write, and a vec4 more.
    fn solved_bytes(&self) -> u64 {
        let [kept, removed] = self.widths();
        16 * (CHUNK * (kept + removed) + CHUNK / 4 + 1) as u64
    }

    /// Stored states per key head: one of each sequence, and those of a step.
    pub(super) fn stored(&self) -> usize {
        self.walk.params.sequences as usize + self.each
    }

    /// The workspace of what is solved.
    pub(super) fn solved(&self) -> Scratch {
        let chunks = (self.walk.c.qkv.kv_units() * self.each) as u64;
        Scratch { name: "solved chunks", bytes: chunks.saturating_mul(self.solved_bytes()) }
    }

    /// Describes the form, for people.
    pub(super) fn describe(&self) -> String {
        let steps = self.segments.div_ceil(self.each);
        let of = |count: usize| if count == 1 { String::new() } else { format!(", {count} steps after another") };
        format!("chunks of {} tokens, solved at once, {SCAN_COLUMNS} columns a workgroup{}", self.length, of(steps))
    }

    /// The dispatches along the sequence.
    pub(super) fn steps(&self) -> Vec<Step> {
        let firsts = (0..self.segments).step_by(self.each);
        firsts.flat_map(|first| self.of_step(first, (first + self.each).min(self.segments))).collect()
    }

    /// The dispatches of some segments.
    fn of_step(&self, first: usize, end: usize) -> [Step; 3] {
        let params = Params {
            segment: self.length as u32,
            segments: (end - first) as u32,
            stored_segments: self.stored() as u32,
            first_segment: first as u32,
            first: first as u32,
            end: end as u32,
            head_splits: 1,
            read_page: 0,
            ..self.walk.params
        };
        [self.prepare(params), self.scan(params), self.outputs(params)]
    }

    /// Tokens of a step, as far as they are known: of packed sequences all segments may be full.
    fn tokens(&self, params: Params) -> usize {
        let (first, end) = (params.first as usize * self.length, params.end as usize * self.length);
        match self.walk.c.mode.sequences {
            Some(_) => (end - first).min(self.walk.c.qkv.keys),
            None => end.min(self.walk.c.qkv.keys) - first,
        }
    }

    fn consts(&self) -> Vec<(&'static str, u32)> {
        let [kept, removed] = self.widths();
        vec![("KEPT4", kept as u32), ("REMOVED4", removed as u32)]
    }

    /// Fragments and overrides that the dispatches share.
    fn common(&self, overrides: &mut Vec<(&'static str, u32)>) -> Vec<Fragment> {
        let (spans, whole) = spans(&self.walk.c.mode, false);
        overrides.extend(whole);
        [spans, &chunk::decay(&self.walk.decay.tiled), &[SOLVED, IDENTITY, NO_EPILOGUE[0]]].concat()
    }

    /// Bytes of the key of a token.
    fn key_bytes(&self) -> f64 {
        self.walk.prepared.vector_bytes(&self.walk.c.qkv, 4)
    }

    fn prepare(&self, params: Params) -> Step {
        let (walk, s) = (self.walk, &self.walk.c.qkv);
        let [kept, removed] = self.widths();
        let splits = (4 * (kept + removed)).div_ceil(ROW_THREADS * COL_THREADS);
        let params = Params { col_splits: splits as u32, ..params };
        let groups = (s.kv_units() * params.segments as usize * splits) as u64;
        let (tokens, heads) = (self.tokens(params) as f64, s.kv_units() as f64);
        let chunks = f64::from(params.segments) * heads;
        let [_, strength] = walk.c.gate_sizes();
        // A column of keys is loaded with the factor of each.
        let once = walk.prepared.vector_bytes(s, 1);
        let pairs = (CHUNK * CHUNK) as f64;
        let cost = Cost {
            flops: chunks * pairs * (2 * s.dim_k * splits + 4 * (kept + removed)) as f64,
            exps: chunks * pairs * splits as f64,
            bytes_read: heads
                * tokens
                * (splits as f64 * (self.key_bytes() + strength as f64) + (s.dim_v * s.dtype.size()) as f64 + once)
                + lookup_bytes(&walk.c.mode, false) * groups as f64,
            // Chunks that have fewer tokens are stored whole.
            bytes_written: chunks * (8 + 4 * CHUNK + 16 * CHUNK * (kept + removed)) as f64,
        } + walk.decay.cost * (heads * tokens * splits as f64);
        let mut overrides = vec![];
        let fragments = self.common(&mut overrides);
        let consts = [chunk::consts(s.dim_k, PREPARE_SLICE, 1, false), self.consts()].concat();
        let column = if self.caps.software { COLUMN_LOOP } else { COLUMN };
        let fragments =
            [&fragments[..], &CHUNK_MAPPED[..2], &GIVEN[..2], &[lanes(COL_THREADS, self.caps), STRENGTH, column]];
        // Right-hand sides are loaded element by element. Borders of packed sequences lie behind the stored states.
        let mut spec =
            walk.spec(&fragments, consts, &overrides).with(&[KEYS_STORED, NARROW[0], NARROW[1 + K], NARROW[1 + V]]);
        if walk.c.mode.sequences.is_some() {
            spec = spec.with(&[SEGMENTS_READ]);
        }
        walk.step(&PREPARE, spec, &params, groups, cost)
    }

    fn scan(&self, params: Params) -> Step {
        let (walk, s) = (self.walk, &self.walk.c.qkv);
        let [kept, removed] = self.widths();
        let splits = s.dim_v.div_ceil(SCAN_COLUMNS);
        // Segments of all steps are counted, because the walk takes those of a step among them.
        let params = Params { col_splits: splits as u32, segments: self.segments as u32, ..params };
        let rows_each = s.dim_k.div_ceil(SCAN_ROW_THREADS);
        let groups = walk.units * splits as u64;
        let tokens = self.tokens(params) as f64;
        let (heads, columns) = (s.kv_units() as f64, splits as f64);
        let chunks = f64::from(params.end - params.first) * heads;
        // A sequence that began in a step before starts from what that step stored, whatever `init` says of the others.
        let init = walk.c.mode.carry;
        let store = init || (params.end as usize) < self.segments;
        let state = f64::from(params.state_len) * 4.0;
        let pages = walk.units as f64 * state;
        let whole = chunks * CHUNK as f64;
        let cost = Cost {
            flops: chunks * 4.0 * (CHUNK * s.dim_k * s.dim_v) as f64,
            exps: 0.0,
            bytes_read: whole * ((16 * kept) as f64 + columns * (16 * removed) as f64)
                + heads * tokens * columns * self.key_bytes()
                // The mark; what is left of each token's write, for each row of columns, and of the state, for all.
                + chunks * columns * 4.0 * (1 + CHUNK * SCAN_COLUMNS / 4 + SCAN_ROW_THREADS * SCAN_COLUMNS / 4) as f64
                + if init || params.first > 0 { pages } else { 0.0 }
                // Both borders of a sequence, and the first once more.
                + 1.5 * lookup_bytes(&walk.c.mode, true) * groups as f64 * (SCAN_ROW_THREADS * SCAN_COLUMNS / 4) as f64,
            bytes_written: whole * (16 * kept) as f64 + chunks * state + if store { pages } else { 0.0 },
        };
        let slice = match rows_each {
            ..=2 => 4,
            3 => 2,
            _ => 1,
        };
        let consts = [
            ("ROW_THREADS", SCAN_ROW_THREADS),
            ("COL_THREADS", SCAN_COLUMNS / 4),
            ("STATE_ROWS", rows_each),
            ("SLICE4", slice),
            ("WIDTH", s.dim_k),
        ];
        let consts = [consts.map(|(name, value)| (name, value as u32)).to_vec(), self.consts()].concat();
        let mut overrides = vec![("INIT", init.into()), ("STORE", store.into())];
        let fragments = self.common(&mut overrides);
        let fragments = [&fragments[..], &GIVEN[..2], &[lanes(SCAN_COLUMNS / 4, self.caps)]];
        let (spec, narrow) = rows(s, &walk.spec(&fragments, consts, &overrides), &[K, V, STATES]);
        walk.step(&SCAN, spec, &params, groups, cost).or_narrow(narrow)
    }

    fn outputs(&self, params: Params) -> Step {
        let (walk, s) = (self.walk, &self.walk.c.qkv);
        let [kept, _] = self.widths();
        let splits = s.dim_v.div_ceil(COLUMNS);
        let params = Params { col_splits: splits as u32, head_splits: s.group() as u32, ..params };
        let groups = (s.kv_units() * params.segments as usize * splits * s.group()) as u64;
        let tokens = self.tokens(params);
        let of_outputs = Outputs {
            heads: (s.kv_units() * s.group()) as f64,
            visits: Visits::of(tokens, self.length),
            width: s.dim_k,
            scored: s.dim_k,
            dim_v: s.dim_v,
            vector: self.key_bytes(),
            value: (16 * kept) as f64,
            state: f64::from(params.state_len) * 4.0,
            states: walk.c.mode.sequences.map(|_| params.segments as usize),
            decay: (walk.decay.kind != DecayKind::None).then_some(walk.decay.cost),
        };
        let covered = tokens as f64 / s.keys as f64;
        let more = Cost {
            bytes_read: lookup_bytes(&walk.c.mode, false) * groups as f64 + walk.run.bytes_added(&walk.runs) * covered,
            bytes_written: walk.runs.output_bytes() * covered,
            ..Cost::default()
        };
        let mut overrides = vec![("SUMMED", walk.run.summed.into())];
        let fragments = self.common(&mut overrides);
        let consts = [chunk::consts(s.dim_k, SLICE, 1, true), self.consts()].concat();
        let own = [lanes(COL_THREADS, self.caps), SCORES_COMPUTED, VALUES, NORMALIZE[0], walk.runs.outputs()];
        let (spec, narrow) = rows(
            s,
            &walk.spec(&[&fragments[..], &CHUNK_MAPPED, &GIVEN, &own], consts, &overrides),
            &[Q, K, O, STATES_READ],
        );
        walk.step(&KERNELS.chunk, spec, &params, groups, of_outputs.cost() + more).or_narrow(narrow)
    }
}
