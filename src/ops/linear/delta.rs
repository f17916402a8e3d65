//! The delta rules on a GPU: tiles, dispatches and bytes of a configuration. Pure: no wgpu type.
//!
//! A workgroup holds some columns of a head's state, with all rows, and processes the head chunk by chunk. The writes
//! of the tokens of a tile are the solution of a triangular system (`shaders/linear/delta.wgsl`), up to the first token with a
//! strength that the system cannot take; from there on tokens write one after another. The tokens are processed as under the
//! other rules. The columns of the state are independent of each other, so they are split over
//! workgroups.
//!
//! Segments of a sequence are not processed in parallel: the effect of a segment on the state before it is a `[D, D]`
//! matrix, which takes as much work to compute as the outputs of the segment, and another `2 D^2 E` flops to compose.
//! That would pay only if heads and columns leave most of a device idle, and would need a second kernel. Instead,
//! dispatches follow each other along the sequence, each short enough for a watchdog, with the states between them in
//! the workspace.
//!
//! Memory traffic: with `s` column splits (1 up to E = 64, 2 up to 128, 4 up to 256), q, k, g and beta are read s
//! times, v is read once and o is written once. This is `(2 s + 2) / 4` times the bytes of q, k, v and o if D = E and H
//! = G. The states between dispatches are each written and read once, which is less than 3% of the rest. If many query
//! heads share a key head, every head split reads its keys and values again.
//!
//! Workspace: two states per key head and sequence if a state is carried or there are several dispatches, and the
//! borders of packed sequences.

use std::mem::offset_of;

use super::delta_chunks::{self, Chunks};
use super::layout::{KERNELS, decay_of, decode_rows};
use super::prepare::prepared;
use super::{Config, NAME};
use crate::cores::lanes::lanes;
use crate::cores::packed::{borders, lookup_bytes};
use crate::cores::recurrence::decode::{DECODE_INVOCATIONS, DECODE_SPLIT_COLUMNS};
use crate::cores::recurrence::kernels::*;
use crate::cores::recurrence::runs::{Run, Runs};
use crate::cores::recurrence::{Decay, GATE_STRIDES, Params, Prepared, STRIDES, Tiles, few, few_told};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::operator::Operator;
use crate::operator::mode::StateLayout;
use crate::operator::qkv;
use crate::tensor::{DType, Slot};

const DELTA: Fragment = fragment!("linear/delta.wgsl");
/// The strengths that a triangular system takes.
pub(super) const STRENGTH: Fragment = fragment!("linear/delta_strength.wgsl");
const DELTA_DECODE: Fragment = fragment!("linear/delta_decode.wgsl");

static WALK_KERNEL: Kernel = Kernel::new("linear_delta", &WALK, Params::UNIFORM, Some(PROOF));
static DECODE_KERNEL: Kernel = Kernel::new("linear_delta_decode", &DECODE_WALK, Params::UNIFORM, None);

/// Byte offset in [`Params`] of the strides of beta.
const BETA_STRIDES: usize = offset_of!(Params, beta);

/// States per key head in the workspace: one to read and one to write.
const PAGES: u64 = 2;

/// Maximum number of tokens of a triangular system. Its size is their square, and at 16 there are already fewer
/// barriers than tokens.
const MOST_TOKENS: usize = 16;

/// Chooses the tiles of a configuration.
pub fn tiles(c: &Config) -> Tiles {
    let fixed = (MOST_TOKENS * MOST_TOKENS + MOST_TOKENS + 1).next_multiple_of(4);
    let tiles = Tiles::new(c.qkv.dim_k, c.qkv.dim_v, c.qkv.group(), None, c.gates_each(), fixed, false);
    Tiles { tile: tiles.tile.min(MOST_TOKENS), ..tiles }
}

/// Tokens of a head per dispatch: as many as stay within the work limit of one dispatch if workgroups fill the device.
pub fn tokens(c: &Config, caps: &Caps) -> usize {
    let t = tiles(c);
    let share = (c.qkv.dim_k * 4 * t.col_threads) as f64;
    let token = 2.0 * share * (2 + t.read_heads) as f64 + overlap_flops(c, &t);
    let longest = (caps.dispatch_flops / (caps.full_groups as f64 * token)) as usize;
    // Tiles start anew at the start of every segment, so a dispatch must not end within a segment or a tile.
    let step = restart(c, &t).unwrap_or(t.tile);
    (longest / step * step).clamp(step, c.qkv.keys.next_multiple_of(step))
}

/// The distance at which tiles start anew: the segment length, if it is not a multiple of the tile.
fn restart(c: &Config, t: &Tiles) -> Option<usize> {
    c.mode.segment.filter(|segment| !segment.is_multiple_of(t.tile)).map(|segment| segment.min(c.qkv.keys))
}

/// Flops per token for the triangular system, in one workgroup.
fn overlap_flops(c: &Config, t: &Tiles) -> f64 {
    let earlier = (t.tile - 1) as f64 / 2.0;
    2.0 * earlier * (c.qkv.dim_k + 4 * t.col_threads) as f64
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let slots = c.slots();
    caps.require(NAME, c.qkv.dtype)?;
    check_indices(NAME, &slots)?;
    check_indices(NAME, std::slice::from_ref(&c.state_slot()))?;
    qkv::check_lengths(NAME, &c.qkv)?;
    let mut dispatches = Dispatches::new(c, &slots, prepared(c, &slots, caps)?, caps);
    let mut strides = STRIDES.to_vec();
    strides.extend(dispatches.decay.slot.map(|slot| (slot, GATE_STRIDES)));
    let beta = slots.iter().position(|slot| slot.name == "beta").filter(|_| !c.beta_sigmoid && !c.beta_for_all_heads);
    strides.extend(beta.map(|slot| (slot, BETA_STRIDES)));
    let (mut pieces, mut count) = (dispatches.prepared.steps.clone(), 0);
    let few = c.mode.decode || few(&c.mode, c.qkv.keys, c.qkv.dim_k, caps);
    let length = delta_chunks::length(c, caps);
    if let Ok(length) = length {
        dispatches.params.stored_segments = Chunks::new(&dispatches, length, caps).stored() as u32;
    }
    let forward = dispatches.params;
    for run in dispatches.runs.all() {
        (dispatches.run, dispatches.params) = (run, run.params(forward));
        let steps = match length {
            _ if few => vec![dispatches.decode()],
            Ok(length) => dispatches.carried(0, Chunks::new(&dispatches, length, caps).steps()),
            Err(_) => dispatches.walk(caps),
        };
        count = steps.iter().filter(|step| step.kernel.name == WALK_KERNEL.name).count();
        for step in steps {
            let cut = c.qkv.cut(NAME, step, &slots, &strides, caps)?;
            pieces.extend(run.strided(c.qkv.strided(cut, &STRIDES), &c.qkv));
        }
    }
    let mut workspace = dispatches.prepared.workspace.clone();
    dispatches.runs.round(&KERNELS.round, 3, true, &mut pieces, &mut workspace);
    let chunks = length.ok().map(|length| Chunks::new(&dispatches, length, caps));
    if !few {
        // The states of one head are adjacent.
        let states = match &chunks {
            Some(chunks) => (c.qkv.kv_units() * chunks.stored()) as u64,
            None => dispatches.pages * dispatches.units,
        };
        let states = (4 * states).saturating_mul(dispatches.state_len());
        let bytes = states.saturating_add(c.mode.border_bytes() as u64);
        workspace.push(Scratch { name: "segment states", bytes: bytes.max(16) });
        if !c.mode.carry {
            workspace.push(Scratch { name: "no state", bytes: 16 });
        }
        workspace.extend(chunks.as_ref().map(Chunks::solved));
    }
    check_workspace(NAME, &workspace)?;
    let t = dispatches.tiles;
    let variant: String = match (length, &chunks) {
        _ if c.mode.decode => "one token".into(),
        _ if few => few_told(c.qkv.keys),
        (_, Some(chunks)) => chunks.describe(),
        (why, None) => format!(
            "tile by tile because {}, {count} after another, tiles of {} tokens, {} x {} of the state a workgroup",
            why.err().unwrap_or_default(),
            t.tile,
            c.qkv.dim_k,
            4 * t.col_threads
        ),
    };
    Ok(Program::new(NAME, variant + &c.mode.told(), slots, workspace, pieces))
}

/// The dispatches of one run.
pub(super) struct Dispatches<'a> {
    pub(super) c: &'a Config,
    pub(super) runs: Runs<'a>,
    pub(super) run: Run,
    pub(super) prepared: Prepared,
    tiles: Tiles,
    /// Key heads of all sequences.
    pub(super) units: u64,
    /// Pages of states that the workspace holds.
    pages: u64,
    pub(super) params: Params,
    pub(super) decay: Decay,
    operands: Vec<Named>,
    lanes: Fragment,
}

impl<'a> Dispatches<'a> {
    /// The casts to u32 lose nothing that is used: every tensor has at most `u32::MAX` elements, and every sequence at
    /// most 2^30 tokens.
    fn new(c: &'a Config, slots: &[Slot], prepared: Prepared, caps: &Caps) -> Self {
        let s = &c.qkv;
        let tiles = tiles(c);
        let sequences = c.mode.sequences.unwrap_or(1);
        let pages = if c.mode.carry || tokens(c, caps) < s.keys { PAGES } else { 0 };
        let [q, k, v, o] = s.strides();
        let decay = decay_of(c, slots);
        let [q_factor, k_factor] = prepared.factors.unwrap_or_default();
        let params = Params {
            queries: s.queries as u32,
            keys: s.keys as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            dim_k: s.dim_k as u32,
            dim_v: s.dim_v as u32,
            rows: s.dim_k as u32,
            segment: c.mode.segment.map_or(s.keys, |segment| segment.min(s.keys)) as u32,
            segments: sequences as u32,
            sequences: sequences as u32,
            stored_segments: pages as u32 * sequences as u32,
            col_splits: tiles.col_splits as u32,
            head_splits: tiles.head_splits as u32,
            segment_stride: (s.dim_k * s.dim_v) as u32,
            state_len: (s.dim_k * s.dim_v) as u32,
            share: s.shared as u32,
            scale: c.effective_scale(),
            q,
            k,
            v,
            o,
            g: decay.strides,
            beta: c.strength_strides(),
            q_factor,
            k_factor,
            ..Params::default()
        };
        let named = slots.iter().enumerate().map(|(i, slot)| (slot.name, Operand::Slot(i)));
        let gate = slots.iter().position(|slot| slot.name == "g").map(|slot| ("gate", Operand::Slot(slot)));
        let runs = Runs::new(s, &c.mode);
        let workspace: &[&str] = if c.mode.carry { &["segments", "solved"] } else { &["segments", "state", "solved"] };
        let operands = prepared.operands(&runs, named.chain(gate), workspace);
        let run = Run::default();
        let units = (s.kv_units() * sequences) as u64;
        Self {
            c,
            runs,
            run,
            prepared,
            tiles,
            units,
            pages,
            params,
            decay,
            operands,
            lanes: lanes(tiles.col_threads, caps),
        }
    }

    fn state_len(&self) -> u64 {
        u64::from(self.params.state_len)
    }

    /// Bytes of the states of all key heads.
    fn states(&self) -> f64 {
        self.units as f64 * self.state_len() as f64 * 4.0
    }

    /// Specialises a kernel with fragments of this rule.
    pub(super) fn spec(
        &self,
        fragments: &[&[Fragment]],
        mut consts: Vec<(&'static str, u32)>,
        overrides: &[(&'static str, u32)],
    ) -> Variant {
        consts.extend([("DECAY", self.decay.kind.number()), ("KEEP_LOGS", 0)]);
        let overrides = [("NORMALIZE", 0)].iter().chain(overrides).copied().collect();
        let common = [self.prepared.fragment(), self.c.strengths_fragment()];
        Variant::new(self.c.qkv.dtype, consts, overrides).with(&common).with(&fragments.concat())
    }

    pub(super) fn step(
        &self,
        kernel: &'static Kernel,
        spec: Variant,
        params: &Params,
        groups: u64,
        cost: Cost,
    ) -> Step {
        Step::new(kernel, spec, params, &self.operands, groups, cost)
    }

    fn transposed(&self) -> (&'static str, u32) {
        ("TRANSPOSED", (self.c.mode.state_layout == StateLayout::Ed).into())
    }

    /// A dispatch that copies the carried state to the page that the walk starts from, or back from the first page.
    fn copy(&self, back: bool, page: u32) -> Step {
        let mode = if back { 2 } else { 3 };
        let overrides = vec![("NORMALIZE", 0), self.transposed(), ("CARRY", 1), ("MODE", mode), ("DECAY", 0)];
        let (spans, whole) = spans(&self.c.mode, true);
        let overrides = overrides.into_iter().chain(whole).collect();
        let spec = Variant::new(DType::F32, vec![], overrides).with(spans);
        let lookups = self.units as f64 * self.state_len() as f64 * lookup_bytes(&self.c.mode, true);
        let cost = Cost { bytes_read: self.states() + lookups, bytes_written: self.states(), ..Cost::default() };
        let params = Params { read_page: page, ..self.params };
        self.step(&KERNELS.scan, spec, &params, self.units * self.state_len().div_ceil(64), cost)
    }

    /// The dispatches along the sequence, between two that copy a carried state.
    fn walk(&self, caps: &Caps) -> Vec<Step> {
        let tokens = tokens(self.c, caps);
        let count = self.c.qkv.keys.div_ceil(tokens);
        self.carried(self.page(count), (0..count).map(|i| self.piece(i, count, tokens)).collect())
    }

    /// Steps that start from states in stored segments from `page` on, and leave them in the first ones, between two that copy a
    /// carried state.
    fn carried(&self, page: u32, steps: Vec<Step>) -> Vec<Step> {
        let c = self.c;
        let carry = |back, page| c.mode.carry.then(|| self.copy(back, page));
        let borders = borders(&KERNELS.borders, &c.mode, self.run.backward, &self.params, &self.operands).into_iter();
        borders.chain(carry(false, page)).chain(steps).chain(carry(true, 0)).collect()
    }

    /// The first state of the page that the walk reads when it has so many pieces before it. A page has a state per sequence.
    fn page(&self, behind: usize) -> u32 {
        behind as u32 % PAGES as u32 * self.params.segments
    }

    /// The dispatch for piece `i` of `count`. States between dispatches alternate between two pages of the workspace,
    /// and the last dispatch writes to the first page.
    fn piece(&self, i: usize, count: usize, tokens: usize) -> Step {
        let (c, t, s) = (self.c, &self.tiles, &self.c.qkv);
        let (first, end) = (i * tokens, ((i + 1) * tokens).min(s.keys));
        let params = Params {
            first: first as u32,
            end: end as u32,
            read_page: self.page(count - i),
            write_page: self.page(count - 1 - i),
            ..self.params
        };
        let groups = self.units * (t.col_splits * t.head_splits) as u64;
        let init = i > 0 || c.mode.carry;
        let store = c.mode.carry || i + 1 < count;
        let (cols, heads) = (t.col_splits as f64, t.head_splits as f64);
        // Packed sequences may have their tokens in any of the pieces.
        let len = if c.mode.sequences.is_some() { s.keys - first } else { end - first } as f64;
        let key_tokens = s.kv_units() as f64 * len;
        let read = key_tokens * s.group() as f64;
        let touch = 2.0 * self.state_len() as f64;
        let value = (s.dim_v * s.dtype.size()) as f64;
        let [decay, strength] = c.gate_sizes();
        let small = (c.gates_each() * decay + strength) as f64;
        let vector = self.prepared.vector_bytes(s, 4);
        let cost = Cost {
            flops: read * touch + key_tokens * (2.0 * touch + cols * overlap_flops(c, t)) * heads,
            exps: key_tokens * c.gates_each() as f64 * cols * heads,
            bytes_read: read * vector * cols
                + key_tokens * ((vector + small) * cols + value) * heads
                + groups as f64 * lookup_bytes(&c.mode, true)
                + self.run.bytes_added(&self.runs) * len / s.keys as f64
                + if init { self.states() * heads } else { 0.0 },
            bytes_written: self.runs.output_bytes() * len / s.keys as f64 + if store { self.states() } else { 0.0 },
        };
        let mut consts = t.consts(t.tile);
        consts.push(("READ_HEADS", t.read_heads as u32));
        let overrides = [("CAUSAL", 1), ("INIT", init.into()), ("STORE", store.into())];
        let (spans, whole) = spans(&c.mode, true);
        let summed = ("SUMMED", self.run.summed.into());
        let overrides: Vec<_> = overrides.into_iter().chain([summed]).chain(whole).collect();
        let fragments = [
            &[
                IDENTITY,
                BY_TOKEN,
                MAPPED_KEYS,
                MAPPED_QUERIES,
                GIVEN[0],
                GIVEN[1],
                GIVEN[2],
                PLAIN_SUMS,
                ONE_PART,
                NORMALIZE[0],
                NO_EPILOGUE[0],
                DELTA,
                STRENGTH,
                self.lanes,
                self.runs.outputs(),
            ][..],
            spans,
            &self.decay.tiled,
        ];
        let spec = self.spec(&fragments, consts, &overrides);
        let (spec, narrow) = rows(s, &spec, &[Q, K, V, O, STATES]);
        self.step(&WALK_KERNEL, spec, &params, groups, cost).or_narrow(narrow)
    }

    fn decode(&self) -> Step {
        let c = self.c;
        let splits = c.qkv.dim_v.div_ceil(DECODE_SPLIT_COLUMNS);
        let mut cost = c.cost();
        // Every column split reads the key, the queries, the decay and the strength.
        let tokens = c.qkv.keys as f64;
        cost.bytes_read += tokens * c.qkv.shared_bytes() + c.more_gate_bytes();
        let [decay, strength] = c.gate_sizes();
        let vectors = (1 + c.qkv.group()) as f64 * self.prepared.vector_bytes(&c.qkv, 1);
        let token = (c.gates_each() * decay + strength) as f64 + vectors;
        cost.bytes_read += (splits - 1) as f64 * self.units as f64 * tokens * token;
        let vectors = (c.qkv.batch * (c.qkv.heads + c.qkv.kv_heads)) as f64;
        cost.bytes_read += tokens * vectors * self.prepared.factor_bytes(&c.qkv, 1);
        let fragments = [
            &[IDENTITY, MAPPED_DECODE, NORMALIZE[1], NO_EPILOGUE[1], DECODE_GIVEN, DELTA_DECODE][..],
            &self.decay.decode,
            &[KEYS_STORED],
            &NARROW,
        ];
        let rows_each = c.qkv.dim_k.div_ceil(DECODE_INVOCATIONS / DECODE_SPLIT_COLUMNS);
        let columns = DECODE_SPLIT_COLUMNS as u32;
        let consts = vec![("MAX_DIM", decode_rows(c)), ("COLUMNS", columns), ("ROWS_EACH", rows_each as u32)];
        let spec = self.spec(&fragments, consts, &[self.transposed()]);
        let params = Params { col_splits: splits as u32, ..self.params };
        self.step(&DECODE_KERNEL, spec, &params, self.units * splits as u64, cost)
    }
}
