//! Builds the GPU program of a configuration: uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! The events of a head are its writes and reads, K of each per token. They are processed in *tiles* of up to 1024 / K
//! tokens (2048 events), one tile after another. The events of a tile are sorted by slot, then processed by as many
//! workgroups as there are *pieces* of 32 events, even if many events belong to one slot: the events of a slot are
//! split into chunks of 32 from its first one on, and the effects of chunks compose. A *block* consists of several
//! tiles that share the steps that are parallel along the sequence: computing all addresses at the start, and summing
//! what was read at the end. The masses need no values, so they are computed once for all tiles of a block. Blocks
//! follow one another, and so do *waves* of heads if one binding cannot hold all heads.
//!
//! Workspace: per token and head of a block, 12 bytes per event (slot, weight, rate), four more bytes for every 32
//! events, and `4 K E` bytes for what is read; per head, another `K (E + 1) / 4` bytes for each token of a tile. At K =
//! 8 and E = 64 this is 2372 bytes if a block is one tile, and less for longer blocks. A block has up to 32 MiB of what
//! is read (2048 tokens at H = 8, K = 8, E = 64), so the workspace does not grow with N. Without a carried state, the
//! workspace also holds the memory, `4 P^U (E + 1) + 8` bytes per head.
//!
//! Bytes are stated for tokens whose slots no other token of the tile accesses. A slot that several tokens access is
//! read and written less often; a slot with more events than a piece reads its values twice.

use std::ops::Range;

use super::{Cape, Config, NAME, Rule};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, aligned, check_indices, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths};
use crate::ops::primitives::topk::{self, Lanes};
use crate::ops::primitives::{gather, stable_sort};
use crate::tensor::{DType, Layout, Slot};

params! {
    /// Must match `struct Params` in `shaders/ramnet/types.wgsl`.
    struct Params {
        grid: Grid,
        heads: u32,
        units: u32,
        first_unit: u32,
        memory_first: u32,
        first_token: u32,
        tokens: u32,
        tile: u32,
        tiles: u32,
        tile_tokens: u32,
        dim_v: u32,
        mass_at: u32,
        position_at: u32,
        advance: u32,
        tau: f32,
        mass_eps: f32,
        initial: f32,
        q: Strides,
        k: Strides,
        v: Strides,
        gamma: Strides,
        o: Strides,
        cape: [[u32; 4]; 8],
    }
}

const TYPES: Fragment = fragment!("ramnet/types.wgsl");
const EVENTS: Fragment = fragment!("ramnet/events.wgsl");
const RULE: Fragment = fragment!("ramnet/rule.wgsl");
const PIECES: Fragment = fragment!("ramnet/blocks.wgsl");

/// Why every index of the kernels is within bounds.
const PROOF: &str = "slots are below P^U, since the beam keeps distinct addresses made of digits, and events below those \
                     of a tile; the buffers of both are written by the steps before; loops end at consts, uniforms, or the \
                     number of pieces";

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}

static CLEAR: Kernel = kernel("ramnet_clear", &[STRIDES_SOURCE, TYPES, fragment!("ramnet/clear.wgsl")]);

static ADDRESS: Kernel =
    kernel("ramnet_address", &[STRIDES_SOURCE, TYPES, topk::BEAM, fragment!("ramnet/address.wgsl")]);

static BIN: Kernel =
    kernel("ramnet_bin", &[STRIDES_SOURCE, TYPES, EVENTS, stable_sort::TILE, fragment!("ramnet/bin.wgsl")]);

static RATES: Kernel = kernel("ramnet_rates", &[STRIDES_SOURCE, TYPES, EVENTS, RULE, fragment!("ramnet/rates.wgsl")]);

static WALK: Kernel = kernel("ramnet_apply", &[STRIDES_SOURCE, TYPES, EVENTS, PIECES, fragment!("ramnet/apply.wgsl")]);

static JOIN: Kernel =
    kernel("ramnet_compose", &[STRIDES_SOURCE, TYPES, EVENTS, PIECES, fragment!("ramnet/compose.wgsl")]);

static REDUCE: Kernel = kernel("ramnet_reduce", &[STRIDES_SOURCE, TYPES, fragment!("ramnet/reduce.wgsl")]);

static DECODE: Kernel =
    kernel("ramnet_decode", &[STRIDES_SOURCE, TYPES, RULE, topk::BEAM, gather::SUM, fragment!("ramnet/decode.wgsl")]);

/// Maximum number of events of a tile, which one workgroup sorts.
const TILE_EVENTS: usize = 2048;
/// Events per piece; `PIECE` in the shader.
const PIECE: usize = 32;
/// Invocations per workgroup that processes pieces.
const WALKERS: usize = 64;
/// Elements per workgroup that clears memory or sums what was read.
const ELEMENTS: usize = 256;
/// Maximum number of bytes that a block reads from the memory.
const BLOCK_BYTES: u64 = 32 << 20;

// Slots as in `Config::slots`, and workspace buffers in order.
const Q: usize = 0;
const K: usize = 1;
const V: usize = 2;
const O: usize = 3;
const GAMMA: usize = 4;
const STATE: Named = ("memory", Operand::Slot(5));
const EVENT_KEYS: Named = ("events", Operand::Workspace(0));
const WEIGHTS: Named = ("weights", Operand::Workspace(1));
const RATE_LIST: Named = ("rates", Operand::Workspace(2));
const CONTRIBUTIONS: Named = ("contributions", Operand::Workspace(3));
const CARRIES: Named = ("carries", Operand::Workspace(4));
const MEMORY: Named = ("memory", Operand::Workspace(5));

/// Minimum work: each input is read once and each output is written once; of a carried memory, only the slots that
/// tokens can access.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let (n, e) = (token_heads(c), c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let (slots, units) = (c.slots_of_a_head() as f64, c.qkv.kv_units() as f64);
    let touched = |each: f64| if c.mode.carry { units * slots.min(n / units * each) * (e + 1.0) * 4.0 } else { 0.0 };
    let topk = c.topk as f64;
    // A carried position is not counted: it is one or two words per head, which a step reads that is needed anyway.
    Cost {
        bytes_read: (q + k + v + n) * size + touched(topk),
        bytes_written: o * size + touched(topk),
        ..arithmetic(c, n)
    }
}

fn token_heads(c: &Config) -> f64 {
    (c.qkv.kv_units() * c.qkv.queries) as f64
}

/// Flops and exponentials for `n` pairs of a token and a head: addresses, writes and reads.
fn arithmetic(c: &Config, n: f64) -> Cost {
    let (topk, e) = (c.topk as f64, c.qkv.dim_v as f64);
    let beam = Lanes::new(c.digits(), c.choices, c.topk);
    Cost {
        flops: n * (2.0 * beam.candidates() as f64 + 5.0 * topk * e),
        exps: n * (2.0 * (c.qkv.dim_k as f64 + topk) + topk),
        ..Cost::default()
    }
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.qkv.dtype)?;
    check_indices(NAME, &c.slots())?;
    check_lengths(NAME, &c.qkv)?;
    let tiling = Tiling::new(c, caps)?;
    let mut steps = Vec::new();
    if c.mode.decode {
        for units in tiling.waves() {
            steps.push(tiling.decode(units));
        }
        let variant = format!("one token, {} lanes a beam", tiling.lanes.lanes);
        return Ok(Program::new(NAME, variant, c.slots(), vec![], steps));
    }
    for units in tiling.waves() {
        tiling.wave(units, &mut steps);
    }
    let workspace = tiling.workspace();
    check_workspace(NAME, &workspace)?;
    let Tiling { tile_tokens, block_tokens, .. } = tiling;
    let variant = format!("blocks of {block_tokens} tokens, tiles of {tile_tokens}, pieces of {PIECE} events");
    Ok(Program::new(NAME, variant, c.slots(), workspace, steps))
}

/// How tokens and heads are split.
struct Tiling<'a> {
    c: &'a Config,
    caps: &'a Caps,
    lanes: Lanes,
    tile_tokens: usize,
    block_tokens: usize,
    /// Heads per wave.
    wave: usize,
    /// Columns per workgroup that processes pieces.
    columns: usize,
}

impl<'a> Tiling<'a> {
    fn new(c: &'a Config, caps: &'a Caps) -> Result<Self, Error> {
        let binding = caps.largest_binding();
        let limit =
            |what: &str, needed: u64| Error::Limit { op: NAME.into(), what: what.into(), needed, limit: binding };
        let s = &c.qkv;
        let units = s.kv_units() as u64;
        // Bytes per token and head: those of what it reads or those of its events, whichever are more.
        let token = (c.topk * s.dim_v.max(2) * 4) as u64;
        let longest = c.mode.segment.unwrap_or(s.queries).min(s.queries);
        let most = (TILE_EVENTS / (2 * c.topk)).min(longest).min((binding / token) as usize);
        if most == 0 {
            return Err(limit("what a token reads (bytes)", token));
        }
        let tile = most as u64 * token;
        let mut wave = units.min(binding / tile);
        if !c.mode.carry {
            let memory = c.memory("memory", [1, 1], s.dim_v).checked_bytes().unwrap_or(u64::MAX);
            if memory > binding {
                return Err(limit("the memory (bytes of one head)", memory));
            }
            wave = wave.min(binding / memory);
        }
        let mut tiling = Self {
            c,
            caps,
            lanes: Lanes::new(c.digits(), c.choices, c.topk),
            tile_tokens: most,
            block_tokens: most,
            wave: wave as usize,
            columns: s.dim_v.next_power_of_two().clamp(4, WALKERS),
        };
        tiling.fit()?;
        let tiles = (BLOCK_BYTES.min(binding) / (tile * tiling.wave as u64)).max(1) as usize;
        tiling.block_tokens = tiles.min(longest.div_ceil(most)) * most;
        Ok(tiling)
    }

    /// Halves the wave until the part of each tensor that it uses fits a binding.
    fn fit(&mut self) -> Result<(), Error> {
        let limit = self.caps.limits.max_storage_buffer_binding_size;
        loop {
            let slots = self.c.slots();
            let over = self.waves().find_map(|units| {
                let bytes = |slot: usize| self.part(&slots[slot], &units).1 * slots[slot].dtype.size() as u64;
                [Q, K, V, O, GAMMA].into_iter().map(|slot| (slot, bytes(slot))).find(|(_, bytes)| *bytes > limit)
            });
            let Some((slot, needed)) = over else { return Ok(()) };
            if self.wave == 1 {
                let unit = match self.c.qkv.layout {
                    Layout::Bhnd => "one head",
                    Layout::Bnhd => "one batch entry",
                };
                let what = format!("tensor `{}` (bytes of {unit})", slots[slot].name);
                return Err(Error::Limit { op: NAME.into(), what, needed, limit });
            }
            self.wave = self.wave.div_ceil(2);
        }
    }

    /// The waves: ranges of heads that are processed together.
    fn waves(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (units, wave) = (self.c.qkv.kv_units(), self.wave);
        (0..units).step_by(wave).map(move |first| first..(first + wave).min(units))
    }

    /// First element and number of elements that these heads use of a tensor. In layout bnhd these are whole batch
    /// entries.
    fn part(&self, tensor: &Slot, units: &Range<usize>) -> (u64, u64) {
        let s = &self.c.qkv;
        let one = tensor.checked_count().unwrap_or(u64::MAX) / s.kv_units() as u64;
        let (first, end) = match s.layout {
            Layout::Bhnd => (units.start, units.end),
            Layout::Bnhd => (units.start / s.heads * s.heads, units.end.div_ceil(s.heads) * s.heads),
        };
        let start = aligned(first as u64 * one, tensor.dtype.size() as u64, self.caps);
        (start, end as u64 * one - start)
    }

    fn pieces(&self, tokens: usize) -> usize {
        (2 * self.c.topk * tokens).div_ceil(PIECE)
    }

    fn workspace(&self) -> Vec<Scratch> {
        let c = self.c;
        let tokens = (self.wave * self.block_tokens) as u64;
        let events = tokens * 2 * c.topk as u64 * 4;
        let (tiles, pieces) = (self.block_tokens / self.tile_tokens, self.pieces(self.tile_tokens));
        let carries = (self.wave * pieces * (c.qkv.dim_v + 1) * 4) as u64;
        let mut list = vec![
            Scratch { name: "events", bytes: events },
            Scratch { name: "weights", bytes: events },
            Scratch { name: "rates and runs", bytes: events + (self.wave * tiles * pieces * 4) as u64 },
            Scratch { name: "what is read", bytes: tokens * (c.topk * c.qkv.dim_v) as u64 * 4 },
            Scratch { name: "carries between pieces", bytes: carries },
        ];
        if !c.mode.carry {
            let memory = c.memory("memory", [1, self.wave], c.qkv.dim_v);
            list.push(Scratch { name: "memory", bytes: memory.checked_bytes().unwrap_or(u64::MAX) });
        }
        list
    }

    /// The parameters that all steps of a wave share.
    fn params(&self, units: &Range<usize>) -> Params {
        let c = self.c;
        let s = &c.qkv;
        let memory = if c.mode.carry { c.state_slot() } else { c.memory("memory", [1, units.len()], s.dim_v) };
        let base = |slot: usize| self.part(&c.slots()[slot], units).0 as u32;
        let [mut q, mut k, mut v, mut o] = s.strides();
        let at = s.layout.strides(s.heads, s.queries, 1);
        let gamma = [at.batch as u32, at.head as u32, at.token as u32, base(GAMMA)];
        (q[3], k[3], v[3], o[3]) = (base(Q), base(K), base(V), base(O));
        let mut cape = [[0u32; 4]; 8];
        match &c.cape {
            Cape::None => {}
            Cape::All => cape = [[u32::MAX; 4]; 8],
            Cape::Heads(heads) => heads.iter().for_each(|h| cape[h / 128 % 8][h / 32 % 4] |= 1 << (h % 32)),
        }
        Params {
            heads: s.heads as u32,
            units: units.len() as u32,
            first_unit: units.start as u32,
            memory_first: if c.mode.carry { 0 } else { units.start as u32 },
            tile_tokens: self.tile_tokens as u32,
            dim_v: s.dim_v as u32,
            mass_at: memory.parts[1].offset as u32,
            position_at: memory.parts[2].offset as u32,
            tau: c.tau,
            mass_eps: c.effective_mass_eps(),
            initial: c.initial_mass(),
            q,
            k,
            v,
            gamma,
            o,
            cape,
            ..Params::default()
        }
    }

    fn memory(&self) -> Named {
        if self.c.mode.carry { STATE } else { MEMORY }
    }

    fn bind(&self, slot: usize, units: &Range<usize>) -> Named {
        let tensor = &self.c.slots()[slot];
        let (first, count) = self.part(tensor, units);
        (tensor.name, Operand::Part { slot, first, count })
    }

    fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![("TOPK", self.c.topk as u32), ("SLOTS", self.c.slots_of_a_head() as u32)]
    }

    fn beam_consts(&self, vectors: usize) -> Vec<(&'static str, u32)> {
        [vec![("SLOTS", self.c.slots_of_a_head() as u32)], self.lanes.consts(vectors)].concat()
    }

    fn rule(&self) -> Vec<(&'static str, u32)> {
        vec![("PDMA", (self.c.rule == Rule::Pdma).into())]
    }

    fn step(
        &self,
        kernel: &'static Kernel,
        params: &Params,
        consts: Vec<(&'static str, u32)>,
        operands: &[Named],
        groups: usize,
        cost: Cost,
    ) -> Step {
        // Steps that bind no tensor of the caller do not depend on its storage type.
        let stored = operands.iter().any(|(_, operand)| matches!(operand, Operand::Part { .. }));
        let elem = if stored { self.c.qkv.dtype } else { DType::F32 };
        Step::new(kernel, Variant::new(elem, consts, vec![]), params, operands, groups as u64, cost)
    }

    /// Appends the steps of all blocks of these heads.
    fn wave(&self, units: Range<usize>, steps: &mut Vec<Step>) {
        let c = self.c;
        let s = &c.qkv;
        let base = self.params(&units);
        if !c.mode.carry {
            let elements = base.position_at as usize + 2 * units.len();
            let cost = Cost { bytes_written: elements as f64 * 4.0, ..Cost::default() };
            let groups = elements.div_ceil(ELEMENTS);
            steps.push(self.step(&CLEAR, &base, self.consts(), &[MEMORY], groups, cost));
        }
        let segment = c.mode.segment.unwrap_or(s.queries);
        for start in (0..s.queries).step_by(segment) {
            let end = start.saturating_add(segment).min(s.queries);
            for first in (start..end).step_by(self.block_tokens) {
                let tokens = self.block_tokens.min(end - first);
                let last = first + tokens == s.queries;
                let params = Params {
                    first_token: first as u32,
                    tokens: tokens as u32,
                    tiles: tokens.div_ceil(self.tile_tokens) as u32,
                    advance: if last && c.mode.carry { s.queries as u32 } else { 0 },
                    ..base
                };
                self.block(&units, params, steps);
            }
        }
    }

    fn block(&self, units: &Range<usize>, params: Params, steps: &mut Vec<Step>) {
        let c = self.c;
        let (e, size, topk) = (c.qkv.dim_v as f64, c.qkv.dtype.size() as f64, c.topk as f64);
        let tokens = params.tokens as usize;
        let n = (units.len() * tokens) as f64;
        let events = 2.0 * n * topk;
        let cape = units.clone().filter(|unit| c.cape.has(unit % c.qkv.heads)).count();
        let arithmetic = arithmetic(c, 1.0);
        let walked = 5.0 * topk * e;

        let vectors = self.lanes.vectors();
        steps.push(self.step(
            &ADDRESS,
            &params,
            self.beam_consts(vectors),
            &[self.bind(Q, units), self.bind(K, units), self.memory(), EVENT_KEYS, WEIGHTS],
            (2 * units.len() * tokens).div_ceil(vectors),
            Cost {
                flops: n * 2.0 * self.lanes.work(),
                exps: n * (arithmetic.exps - topk),
                bytes_read: n * 2.0 * self.lanes.loads() as f64 * size + (cape * tokens * 2 * 2 * 4) as f64,
                bytes_written: 2.0 * events * 4.0,
            },
        ));
        let sort = ("SORT", self.sort() as u32);
        let bytes = events * 4.0;
        steps.push(self.step(
            &BIN,
            &params,
            [self.consts(), vec![sort]].concat(),
            &[EVENT_KEYS],
            units.len() * params.tiles as usize,
            Cost { bytes_read: bytes, bytes_written: bytes, ..Cost::default() },
        ));

        let in_tile = |tile: u32| self.tile_tokens.min(tokens - tile as usize * self.tile_tokens);
        let pieces: usize = (0..params.tiles).map(|tile| self.pieces(in_tile(tile))).sum();
        let mut rates = self.step(
            &RATES,
            &params,
            [self.consts(), vec![sort]].concat(),
            &[EVENT_KEYS, WEIGHTS, self.bind(GAMMA, units), self.memory(), RATE_LIST],
            units.len(),
            Cost {
                exps: n * topk,
                // Keys, weights and masses, and one gamma per write.
                bytes_read: 3.0 * events * 4.0 + n * topk * size,
                bytes_written: 2.0 * events * 4.0 + (units.len() * pieces * 4) as f64,
                ..Cost::default()
            },
        );
        rates.spec.overrides = self.rule();
        steps.push(rates);

        for tile in 0..params.tiles {
            let params = Params { tile, ..params };
            let count = in_tile(tile);
            let n = (units.len() * count) as f64;
            let events = 2.0 * n * topk;
            let pieces = self.pieces(count);
            let per = WALKERS / self.columns;
            let columns = c.qkv.dim_v.div_ceil(self.columns);
            let groups = units.len() * columns * pieces.div_ceil(per);
            let consts = [self.consts(), vec![("COLUMNS", self.columns as u32), ("PER", per as u32)]].concat();
            // Every piece also looks at the next piece and at one key on either side.
            let end = 2 * c.topk * count;
            let keys = |piece: usize| ((piece + 2) * PIECE + 1).min(end) - (piece * PIECE).saturating_sub(1);
            let reached = |piece: usize| ((piece + 2) * PIECE).min(end) - piece * PIECE;
            let looked = (0..pieces).map(|piece| keys(piece) + reached(piece) + 1).sum::<usize>();
            let looked = (units.len() * columns * looked) as f64;
            let operands = [EVENT_KEYS, RATE_LIST, self.bind(V, units), self.memory(), CONTRIBUTIONS, CARRIES];
            steps.push(self.step(
                &WALK,
                &params,
                consts.clone(),
                &operands,
                groups,
                Cost {
                    flops: n * walked,
                    // Keys, rates and one start per piece; contents, and one value per write.
                    bytes_read: looked * 4.0 + e * (events * 4.0 + n * topk * size),
                    bytes_written: e * events * 4.0,
                    ..Cost::default()
                },
            ));
            // One start per piece, assuming that no run is longer than a piece.
            let looked = (units.len() * columns * pieces) as f64;
            let cost = Cost { bytes_read: looked * 4.0, ..Cost::default() };
            steps.push(self.step(&JOIN, &params, consts, &operands, groups, cost));
        }

        let moved = if params.advance > 0 { (units.len() * 2 * 4) as f64 } else { 0.0 };
        steps.push(self.step(
            &REDUCE,
            &params,
            self.consts(),
            &[CONTRIBUTIONS, self.memory(), self.bind(O, units)],
            (units.len() * tokens * c.qkv.dim_v).div_ceil(ELEMENTS),
            Cost { bytes_read: n * topk * e * 4.0 + moved, bytes_written: n * e * size + moved, ..Cost::default() },
        ));
    }

    /// Number of elements that a workgroup sorts: a power of two.
    fn sort(&self) -> usize {
        (2 * self.c.topk * self.tile_tokens).next_power_of_two().max(256)
    }

    fn decode(&self, units: Range<usize>) -> Step {
        let c = self.c;
        let params = Params { tokens: 1, tiles: 1, ..self.params(&units) };
        let (e, size, topk) = (c.qkv.dim_v as f64, c.qkv.dtype.size() as f64, c.topk as f64);
        let n = units.len() as f64;
        let cape = units.clone().filter(|unit| c.cape.has(unit % c.qkv.heads)).count() as f64;
        let cost = Cost {
            bytes_read: n * (2.0 * self.lanes.loads() as f64 * size + e * size + topk * (size + 4.0) + 2.0 * 4.0)
                + n * 2.0 * topk * e * 4.0
                + cape * 2.0 * topk * 2.0 * 4.0,
            bytes_written: n * (e * size + topk * 4.0 + 2.0 * 4.0 + topk * e * 4.0),
            flops: n * (2.0 * self.lanes.work() + 5.0 * topk * e),
            ..arithmetic(c, n)
        };
        let mut operands = [Q, K, V, GAMMA].map(|slot| self.bind(slot, &units)).to_vec();
        operands.extend([STATE, self.bind(O, &units)]);
        let groups = units.len();
        let mut step = self.step(&DECODE, &params, self.beam_consts(2), &operands, groups, cost);
        step.spec.overrides = self.rule();
        step
    }
}
