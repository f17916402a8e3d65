//! Events sorted by slot. Those of a block are processed at once, by as many workgroups as there are *pieces* of 32 events,
//! even if many events belong to one slot: the events of a slot are split into chunks of 32 from its first one on, and the
//! effects of chunks compose. A block has up to 32768 events per head (16384 / K tokens). Workgroups sort them in *tiles* of up to
//! 4096 events, which another dispatch merges. A block takes seven dispatches, or six if it is a single tile:
//!
//! 1. addresses and weights of all tokens;
//! 2. tiles sorted by slot;
//! 3. tiles merged;
//! 4. masses, which need no values: the rates of events in first chunks, and the effects of later chunks on the mass;
//! 5. contents: first chunks applied; the rates of events in later chunks, and the effects of these chunks on the content;
//! 6. later chunks applied;
//! 7. what was read, summed for each token.
//!
//! Workspace, besides that of every form: per token and head of a block, 8 K bytes of sorted events or rates, `K (E + 4) / 4` bytes
//! of what chunks pass on, and `4 K E` bytes for what is read. A block has up to 32 MiB of what is read (2048 tokens at H = 8,
//! K = 8, E = 64).
//!
//! Bytes are stated for tokens whose slots no other token of the block accesses. A slot that several tokens access is
//! read and written less often; a slot with more events than a chunk reads its values twice.

use super::Config;
use super::layout::{
    BLOCK_BYTES, Block, COMMON, ELEMENTS, EVENT_KEYS, O, POSITION, PROOF, Params, SHARED, Tiling, V, WEIGHTS,
};
use crate::cores::rows::{OUTPUTS_F32, OUTPUTS_STORED};
use crate::gpu::program::{Cost, Named, Operand, Scratch, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::ops::primitives::stable_sort;
use crate::tensor::DType;

const EVENTS: Fragment = fragment!("ramnet/events.wgsl");
const CARRIES: Fragment = fragment!("ramnet/carries.wgsl");
const BLOCKS: Fragment = fragment!("ramnet/blocks.wgsl");

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}

static CLEAR: Kernel = kernel("ramnet_clear", &[COMMON[0], COMMON[1], fragment!("ramnet/clear.wgsl")]);

static BIN: Kernel =
    kernel("ramnet_bin", &[COMMON[0], COMMON[1], EVENTS, stable_sort::TILE, fragment!("ramnet/bin.wgsl")]);

static MERGE: Kernel = kernel("ramnet_merge", &[COMMON[0], COMMON[1], EVENTS, fragment!("ramnet/merge.wgsl")]);

static RATES: Kernel = kernel("ramnet_rates", &[COMMON[0], COMMON[1], EVENTS, CARRIES, fragment!("ramnet/rates.wgsl")]);

static APPLY: Kernel =
    kernel("ramnet_apply", &[COMMON[0], COMMON[1], EVENTS, CARRIES, BLOCKS, fragment!("ramnet/apply.wgsl")]);

static COMPOSE: Kernel =
    kernel("ramnet_compose", &[COMMON[0], COMMON[1], EVENTS, CARRIES, BLOCKS, fragment!("ramnet/compose.wgsl")]);

static REDUCE: Kernel = kernel("ramnet_reduce", &[COMMON[0], COMMON[1], POSITION, fragment!("ramnet/reduce.wgsl")]);

/// Maximum number of events of a block and head; `EVENTS` in the shader.
const BLOCK_EVENTS: usize = 32768;
/// Events of a tile, which one workgroup sorts, at most; and where so many of all heads would exceed a block.
const TILE_EVENTS: [usize; 2] = [4096, 2048];
/// Events per piece, and of a chunk; `PIECE` in the shader.
const PIECE: usize = 32;
/// Events per workgroup that computes rates; `SECTION` in the shader.
const SECTION: usize = 512;
/// Invocations per workgroup that processes pieces.
const WALKERS: usize = 64;

/// A list as long as the events, of which each step leaves in one what the next reads: slots, keys sorted by tile, keys, rates.
const LISTS: [Operand; 2] = [EVENT_KEYS.1, Operand::Workspace(SHARED)];
const CONTRIBUTIONS: Named = ("contributions", Operand::Workspace(SHARED + 1));
const CARRY_ROWS: Named = ("carries", Operand::Workspace(SHARED + 2));
const MEMORY: usize = SHARED + 3;

/// The sizes of the form with sorted events.
pub(super) struct Pieces {
    topk: usize,
    dim_v: usize,
    pub(super) tile_tokens: usize,
    /// Columns per workgroup that processes pieces.
    columns: usize,
}

impl Pieces {
    pub(super) fn new(c: &Config) -> Self {
        let longest = c.mode.segment.unwrap_or(c.qkv.queries);
        let mut pieces = Self {
            topk: c.topk,
            dim_v: c.qkv.dim_v,
            tile_tokens: 0,
            columns: c.qkv.dim_v.next_power_of_two().clamp(4, WALKERS),
        };
        let [large, small] = TILE_EVENTS.map(|events| events / (2 * c.topk));
        let exceeds = large.min(longest) as u64 * pieces.bytes() * c.qkv.kv_units() as u64 > BLOCK_BYTES;
        pieces.tile_tokens = if exceeds { small } else { large }.min(longest);
        pieces
    }

    /// Maximum number of tiles of a block.
    pub(super) fn most_tiles(&self) -> usize {
        BLOCK_EVENTS / (2 * self.topk * self.tile_tokens)
    }

    /// Bytes per token and head: those of what it reads or those of its weights, whichever are more.
    pub(super) fn bytes(&self) -> u64 {
        (self.topk * self.dim_v.max(3) * 4) as u64
    }

    pub(super) fn variant(&self, block_tokens: usize) -> String {
        let tiles = format!("tiles of {}, pieces of {PIECE} events", self.tile_tokens);
        format!("blocks of {block_tokens} tokens, {tiles}, since workgroup memory is too small for a table")
    }

    fn pieces(&self, tokens: usize) -> usize {
        (2 * self.topk * tokens).div_ceil(PIECE)
    }

    pub(super) fn workspace(&self, tiling: &Tiling<'_>, list: &mut Vec<Scratch>) {
        let tokens = (tiling.wave * tiling.block_tokens) as u64;
        let carries = (tiling.wave * self.pieces(tiling.block_tokens) * (self.dim_v + 4) * 4) as u64;
        list.extend([
            Scratch { name: "sorted events or rates", bytes: tokens * 2 * self.topk as u64 * 4 },
            Scratch { name: "what is read", bytes: tokens * (self.topk * self.dim_v) as u64 * 4 },
            Scratch { name: "carries between pieces", bytes: carries },
        ]);
        if !tiling.c.mode.carry {
            let memory = tiling.c.memory("memory", [1, tiling.wave], self.dim_v);
            list.push(Scratch { name: "memory", bytes: memory.checked_bytes().unwrap_or(u64::MAX) });
        }
    }

    /// Initialises the memories of a wave, unless they are carried.
    pub(super) fn clear(&self, tiling: &Tiling<'_>, params: &Params) -> Option<Step> {
        if tiling.c.mode.carry {
            return None;
        }
        let elements = (params.position_at + 2 * params.units) as usize;
        let cost = Cost { bytes_written: elements as f64 * 4.0, ..Cost::default() };
        let groups = elements.div_ceil(ELEMENTS);
        Some(tiling.step(&CLEAR, params, tiling.consts(), &[tiling.memory(MEMORY)], groups, cost))
    }

    pub(super) fn block(&self, tiling: &Tiling<'_>, block: &mut Block, steps: &mut Vec<Step>) {
        let c = tiling.c;
        let (e, topk) = (self.dim_v as f64, self.topk as f64);
        let tokens = block.tokens.len();
        let last = block.tokens.end == c.qkv.queries;
        let params = &mut block.params;
        params.tile_tokens = self.tile_tokens as u32;
        params.tiles = tokens.div_ceil(self.tile_tokens) as u32;
        params.pieces = self.pieces(tokens) as u32;
        params.advance = if last && c.mode.carry { c.qkv.queries as u32 } else { 0 };
        let (params, units) = (block.params, block.units.len());
        let memory = tiling.memory(MEMORY);
        let n = (units * tokens) as f64;
        let words = |count: f64| count * 4.0;
        let events = 2.0 * n * topk;

        steps.push(tiling.address(block, memory));
        let tiles = params.tiles as usize;
        let sorts = [tiling.consts(), vec![("SORT", self.sort() as u32)]].concat();
        let cost = Cost { bytes_read: words(events), bytes_written: words(events), ..Cost::default() };
        let [slots, mut keys] = LISTS;
        let operands = [("events", slots), ("sorted", keys)];
        steps.push(tiling.step(&BIN, &params, sorts.clone(), &operands, units * tiles, cost));
        let mut other = slots;
        if tiles > 1 {
            let cost = Cost { bytes_read: words(events * tiles as f64), ..cost };
            let operands = [("sorted", keys), ("keys", other)];
            steps.push(tiling.step(&MERGE, &params, sorts, &operands, units * tiles, cost));
            (keys, other) = (other, keys);
        }
        let [keys, rates] = [("keys", keys), ("rates", other)];
        // Every section also looks at the events of a chunk on either side.
        let count = 2 * self.topk * tokens;
        let looked = |first: usize| (first + SECTION + PIECE).min(count) - first.saturating_sub(PIECE);
        let looked = units * (0..count).step_by(SECTION).map(looked).sum::<usize>();
        let pieces = self.pieces(tokens);
        steps.push(tiling.step(
            &RATES,
            &params,
            tiling.consts(),
            &[keys, WEIGHTS, memory, rates, CARRY_ROWS],
            units * count.div_ceil(SECTION),
            Cost {
                // Keys, weights and masses, and what a write leaves.
                bytes_read: words(looked as f64 + 2.0 * events + n * topk),
                bytes_written: words(events + n * topk + (units * pieces) as f64),
                ..Cost::default()
            },
        ));
        self.contents(tiling, block, [keys, rates], steps);

        let moved = if params.advance > 0 { (units * 2 * 4) as f64 } else { 0.0 };
        let [written, added] = tiling.output_bytes(block.run);
        let outputs = if tiling.runs().in_workspace() { OUTPUTS_F32 } else { OUTPUTS_STORED };
        let summed = vec![("SUMMED", block.run.summed.into())];
        steps.push(tiling.step_of(
            &REDUCE,
            &params,
            Variant::new(DType::F32, tiling.consts(), summed).with(&[outputs]),
            &[CONTRIBUTIONS, memory, tiling.bind(O, &block.units)],
            (units * tokens * self.dim_v).div_ceil(ELEMENTS),
            Cost {
                bytes_read: n * e * (topk * 4.0 + added) + moved,
                bytes_written: n * e * written + moved,
                ..Cost::default()
            },
        ));
    }

    /// Applies the events of a block to the contents.
    fn contents(&self, tiling: &Tiling<'_>, block: &Block, [keys, rates]: [Named; 2], steps: &mut Vec<Step>) {
        let c = tiling.c;
        let (e, size, topk) = (self.dim_v as f64, c.qkv.dtype.size() as f64, self.topk as f64);
        let (units, tokens) = (block.units.len(), block.tokens.len());
        let n = (units * tokens) as f64;
        let events = 2.0 * n * topk;
        let pieces = self.pieces(tokens);
        let per = WALKERS / self.columns;
        let columns = self.dim_v.div_ceil(self.columns);
        let groups = units * columns * pieces.div_ceil(per);
        let consts = [tiling.consts(), vec![("COLUMNS", self.columns as u32), ("PER", per as u32)]].concat();
        // Every piece also looks at the keys of the next piece, and at one key on either side.
        let end = 2 * self.topk * tokens;
        let seen = |piece: usize| ((piece + 2) * PIECE + 1).min(end) - (piece * PIECE).saturating_sub(1);
        let looked = end + (0..pieces).map(seen).sum::<usize>();
        let [looked, starts] = [looked, pieces].map(|count| (units * columns * count) as f64);
        let values = tiling.bind(V, &block.units);
        let operands = [keys, rates, values, tiling.memory(MEMORY), CONTRIBUTIONS, CARRY_ROWS, WEIGHTS];
        steps.push(tiling.step(
            &APPLY,
            &block.params,
            consts.clone(),
            &operands,
            groups,
            Cost {
                flops: n * 5.0 * topk * e,
                // Keys, rates and one start per piece; contents, and one value per write.
                bytes_read: (looked + starts) * 4.0 + e * (events * 4.0 + n * topk * size),
                bytes_written: e * events * 4.0,
                ..Cost::default()
            },
        ));
        // One start per piece, assuming that no run is longer than a chunk.
        let cost = Cost { bytes_read: starts * 4.0, ..Cost::default() };
        steps.push(tiling.step(&COMPOSE, &block.params, consts, &operands[..6], groups, cost));
    }

    /// Number of elements that a workgroup sorts: a power of two.
    fn sort(&self) -> usize {
        (2 * self.topk * self.tile_tokens).next_power_of_two().max(256)
    }
}
