//! Events sorted by slot. They are processed in *tiles* of up to 1024 / K tokens (2048 events), one tile after another, by as
//! many workgroups as there are *pieces* of 32 events, even if many events belong to one slot: the events of a slot are split
//! into chunks of 32 from its first one on, and the effects of chunks compose. A block consists of several tiles that share the
//! steps that are parallel along the sequence: computing all addresses at the start, and summing what was read at the end. The
//! masses need no values, so they are computed once for all tiles of a block.
//!
//! Workspace, besides that of every form: per token and head of a block, 4 bytes per event (its rate), four more bytes for
//! every 32 events, and `4 K E` bytes for what is read; per head, another `K (E + 1) / 4` bytes for each token of a tile. A
//! block has up to 32 MiB of what is read (2048 tokens at H = 8, K = 8, E = 64).
//!
//! Bytes are stated for tokens whose slots no other token of the tile accesses. A slot that several tokens access is
//! read and written less often; a slot with more events than a piece reads its values twice.

use super::Config;
use super::layout::{Block, COMMON, ELEMENTS, EVENT_KEYS, O, POSITION, PROOF, Params, SHARED, Tiling, V, WEIGHTS};
use crate::cores::rows::{OUTPUTS_F32, OUTPUTS_STORED};
use crate::gpu::program::{Cost, Named, Operand, Scratch, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::ops::primitives::stable_sort;
use crate::tensor::DType;

const EVENTS: Fragment = fragment!("ramnet/events.wgsl");
const BLOCKS: Fragment = fragment!("ramnet/blocks.wgsl");

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}

static CLEAR: Kernel = kernel("ramnet_clear", &[COMMON[0], COMMON[1], fragment!("ramnet/clear.wgsl")]);

static BIN: Kernel =
    kernel("ramnet_bin", &[COMMON[0], COMMON[1], EVENTS, stable_sort::TILE, fragment!("ramnet/bin.wgsl")]);

static RATES: Kernel = kernel("ramnet_rates", &[COMMON[0], COMMON[1], EVENTS, fragment!("ramnet/rates.wgsl")]);

static APPLY: Kernel = kernel("ramnet_apply", &[COMMON[0], COMMON[1], EVENTS, BLOCKS, fragment!("ramnet/apply.wgsl")]);

static COMPOSE: Kernel =
    kernel("ramnet_compose", &[COMMON[0], COMMON[1], EVENTS, BLOCKS, fragment!("ramnet/compose.wgsl")]);

static REDUCE: Kernel = kernel("ramnet_reduce", &[COMMON[0], COMMON[1], POSITION, fragment!("ramnet/reduce.wgsl")]);

/// Maximum number of events of a tile, which one workgroup sorts.
const TILE_EVENTS: usize = 2048;
/// Events per piece; `PIECE` in the shader.
const PIECE: usize = 32;
/// Invocations per workgroup that processes pieces.
const WALKERS: usize = 64;

const RATE_LIST: Named = ("rates", Operand::Workspace(SHARED));
const CONTRIBUTIONS: Named = ("contributions", Operand::Workspace(SHARED + 1));
const CARRIES: Named = ("carries", Operand::Workspace(SHARED + 2));
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
        let longest = c.mode.segment.unwrap_or(c.qkv.queries).min(c.qkv.queries);
        Self {
            topk: c.topk,
            dim_v: c.qkv.dim_v,
            tile_tokens: (TILE_EVENTS / (2 * c.topk)).min(longest),
            columns: c.qkv.dim_v.next_power_of_two().clamp(4, WALKERS),
        }
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
        let (tiles, pieces) = (tiling.block_tokens / self.tile_tokens, self.pieces(self.tile_tokens));
        let flagged = (tiling.wave * tiles * (pieces + 1) * 4) as u64;
        let carries = (tiling.wave * pieces * (self.dim_v + 1) * 4) as u64;
        list.extend([
            Scratch { name: "rates and runs", bytes: tokens * 2 * self.topk as u64 * 4 + flagged },
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
        params.advance = if last && c.mode.carry { c.qkv.queries as u32 } else { 0 };
        let (params, units) = (block.params, block.units.len());
        let memory = tiling.memory(MEMORY);
        let n = (units * tokens) as f64;
        let events = 2.0 * n * topk;

        steps.push(tiling.address(block, memory));
        let sorted = [tiling.consts(), vec![("SORT", self.sort() as u32)]].concat();
        let bytes = events * 4.0;
        steps.push(tiling.step(
            &BIN,
            &params,
            sorted.clone(),
            &[EVENT_KEYS],
            units * params.tiles as usize,
            Cost { bytes_read: bytes, bytes_written: bytes, ..Cost::default() },
        ));
        let in_tile = |tile: u32| self.tile_tokens.min(tokens - tile as usize * self.tile_tokens);
        let flagged: usize = (0..params.tiles).map(|tile| self.pieces(in_tile(tile)) + 1).sum();
        steps.push(tiling.step(
            &RATES,
            &params,
            sorted,
            &[EVENT_KEYS, WEIGHTS, memory, RATE_LIST],
            units,
            Cost {
                // Keys, weights and masses, and what a write leaves.
                bytes_read: (3.0 * events + n * topk) * 4.0,
                bytes_written: 2.0 * events * 4.0 + (units * flagged * 4) as f64,
                ..Cost::default()
            },
        ));
        for tile in 0..params.tiles {
            let mut params = params;
            params.tile = tile;
            self.tile(tiling, block, params, in_tile(tile), steps);
        }

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

    /// Applies the events of a tile of so many tokens.
    fn tile(&self, tiling: &Tiling<'_>, block: &Block, params: Params, count: usize, steps: &mut Vec<Step>) {
        let c = tiling.c;
        let (e, size, topk) = (self.dim_v as f64, c.qkv.dtype.size() as f64, self.topk as f64);
        let units = block.units.len();
        let n = (units * count) as f64;
        let events = 2.0 * n * topk;
        let pieces = self.pieces(count);
        let per = WALKERS / self.columns;
        let columns = self.dim_v.div_ceil(self.columns);
        let groups = units * columns * pieces.div_ceil(per);
        let consts = [tiling.consts(), vec![("COLUMNS", self.columns as u32), ("PER", per as u32)]].concat();
        // Every piece also looks at the next piece and at one key on either side.
        let end = 2 * self.topk * count;
        let keys = |piece: usize| ((piece + 2) * PIECE + 1).min(end) - (piece * PIECE).saturating_sub(1);
        let reached = |piece: usize| ((piece + 2) * PIECE).min(end) - piece * PIECE;
        let looked = (0..pieces).map(|piece| keys(piece) + reached(piece) + 1).sum::<usize>();
        let looked = (units * columns * looked) as f64;
        let values = tiling.bind(V, &block.units);
        let operands = [EVENT_KEYS, RATE_LIST, values, tiling.memory(MEMORY), CONTRIBUTIONS, CARRIES];
        steps.push(tiling.step(
            &APPLY,
            &params,
            consts.clone(),
            &operands,
            groups,
            Cost {
                flops: n * 5.0 * topk * e,
                // Keys, rates and one start per piece; contents, and one value per write.
                bytes_read: looked * 4.0 + e * (events * 4.0 + n * topk * size),
                bytes_written: e * events * 4.0,
                ..Cost::default()
            },
        ));
        // One flag per workgroup, assuming that no run is longer than a piece.
        let cost = Cost { bytes_read: groups as f64 * 4.0, ..Cost::default() };
        steps.push(tiling.step(&COMPOSE, &params, consts, &operands, groups, cost));
    }

    /// Number of elements that a workgroup sorts: a power of two.
    fn sort(&self) -> usize {
        (2 * self.topk * self.tile_tokens).next_power_of_two().max(256)
    }
}
