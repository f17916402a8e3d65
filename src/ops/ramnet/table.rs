//! Tokens in order, with a table: a workgroup has some columns of one memory and takes all tokens of a block.
//!
//! The invocations of a column share the K slots that a token writes, or reads, so that a token takes two barriers and two
//! accesses of the table as long as K does not exceed their number. All that does not depend on the table, addresses and what
//! a write leaves of a mass, is computed before, in parallel. A block needs two dispatches, and one more if it does not begin
//! with the initial memory. Packed sequences are separate workgroups.
//!
//! Results do not depend on blocks: every event is applied alone, in the order of the tokens.
//!
//! Bytes are stated for sequences that fill a block. With packed ones, less may be moved.

use super::layout::{Block, ELEMENTS, EVENT_KEYS, Form, O, POSITION, PROOF, Params, SHARED, Tiling, V, WEIGHTS};
use super::{Config, layout};
use crate::cores::rows::{OUTPUTS_F32, OUTPUTS_STORED};
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Named, Operand, Scratch, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::operator::mode::Mode;
use crate::tensor::DType;

/// Where the table is.
const IN_WORKGROUP: Fragment = fragment!("ramnet/table_shared.wgsl");
const IN_MEMORY: Fragment = fragment!("ramnet/table_stored.wgsl");

static TABLE: Kernel = Kernel::new(
    "ramnet_table",
    &[layout::COMMON[0], layout::COMMON[1], fragment!("ramnet/place.wgsl"), POSITION, fragment!("ramnet/table.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

static MASSES: Kernel = Kernel::new(
    "ramnet_masses",
    &[layout::COMMON[0], layout::COMMON[1], fragment!("ramnet/masses.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

const MASSES_COPY: Named = ("masses", Operand::Workspace(SHARED));
const MEMORY: usize = SHARED + 1;

/// Loads of a kind that an invocation issues together.
const AHEAD: usize = 8;
/// Portable workgroup memory, in floats.
const FLOATS: usize = 4096;
/// Invocations per workgroup, unless the ranks alone are more: no more than the smallest subgroups of most GPUs, for which a
/// barrier costs little.
const INVOCATIONS: usize = 32;

/// The sizes of the table form.
pub(super) struct Table {
    /// Columns per workgroup.
    columns: usize,
    /// Invocations per column.
    ranks: usize,
    /// Tokens whose loads are issued together.
    batch: usize,
    /// Whether the table is in workgroup memory.
    shared: bool,
}

impl Table {
    /// The sizes for this shape; `None` if another form suits it better, or if another form is wanted.
    pub(super) fn new(c: &Config, caps: &Caps, form: Option<Form>) -> Option<Self> {
        let ranks = c.topk.min(INVOCATIONS);
        let batch = AHEAD / c.topk.div_ceil(ranks);
        let slots = c.slots_of_a_head();
        let most = (INVOCATIONS / ranks).max(2).min(c.qkv.dim_v.next_power_of_two());
        let most = 1 << most.ilog2();
        let fits = |columns: &usize| {
            let lanes = ranks * columns;
            slots * (columns + 1) + 2 * lanes + batch * lanes <= floats(caps)
        };
        // A single column of several would load the slots and weights once per column.
        let columns = std::iter::successors(Some(most), |columns| Some(columns / 2))
            .take_while(|columns| *columns >= c.qkv.dim_v.min(2))
            .find(fits);
        match (columns, form) {
            (_, Some(Form::Pieces)) if c.mode.sequences.is_none() => None,
            (Some(columns), None | Some(Form::Table)) => Some(Self { columns, ranks, batch, shared: true }),
            (None, None) if c.mode.sequences.is_none() => None,
            _ => Some(Self { columns: most, ranks, batch, shared: false }),
        }
    }

    /// Memories per head that a run without a carried state needs. Of packed sequences with their tables in workgroup memory only
    /// one reaches into the next block, but its memory is written while that of another one is read.
    pub(super) fn memories(&self, mode: &Mode) -> usize {
        match mode.sequences {
            None => 1,
            Some(_) if self.shared => 2,
            Some(sequences) => sequences,
        }
    }

    /// Workgroups per memory.
    fn blocks(&self, c: &Config) -> usize {
        c.qkv.dim_v.div_ceil(self.columns)
    }

    /// Copies of the masses that a block starts with.
    fn copies(&self, c: &Config) -> usize {
        if self.shared { 1 } else { self.blocks(c) }
    }

    pub(super) fn variant(&self, tiling: &Tiling<'_>) -> String {
        let slots = tiling.c.slots_of_a_head();
        let Self { columns, .. } = self;
        let place = if self.shared {
            format!("in {} KiB of workgroup memory", (slots * (columns + 1) * 4).div_ceil(1024))
        } else {
            "in the memory, since workgroup memory is too small for it".to_owned()
        };
        let blocks = tiling.block_tokens;
        format!("tokens in order, table of {slots} slots and {columns} columns {place}, blocks of {blocks} tokens")
    }

    pub(super) fn workspace(&self, tiling: &Tiling<'_>, list: &mut Vec<Scratch>) {
        let c = tiling.c;
        let blocks = c.qkv.queries.div_ceil(tiling.block_tokens);
        let memory = c.memory("memory", [self.memories(&c.mode), tiling.wave], c.qkv.dim_v);
        let units =
            if c.mode.carry { c.mode.states(c.qkv.batch) * c.qkv.heads } else { self.memories(&c.mode) * tiling.wave };
        let copied = (units * self.copies(c) * c.slots_of_a_head() * 4) as u64;
        // Kernels declare both buffers. With tables in workgroup memory, a single block that starts from the initial memory
        // uses neither.
        let used = !self.shared || c.mode.carry || blocks > 1;
        list.push(Scratch { name: "masses", bytes: if used { copied } else { 4 } });
        if !c.mode.carry {
            let bytes = memory.checked_bytes().unwrap_or(u64::MAX);
            list.push(Scratch { name: "memory", bytes: if used { bytes } else { 4 } });
        }
    }

    pub(super) fn block(&self, tiling: &Tiling<'_>, block: &mut Block, steps: &mut Vec<Step>) {
        let c = tiling.c;
        let (units, tokens) = (block.units.len(), block.tokens.len());
        let params = &mut block.params;
        (params.tile_tokens, params.tiles) = (params.tokens, 1);
        params.mass_copies = self.copies(c) as u32;
        let packed = c.mode.sequences.is_some();
        // Memories of one packed sequence after another; with two in turn, that of the block before, and the other one.
        if packed && c.mode.carry {
            params.memory_step = c.qkv.heads as u32;
        } else if packed && self.shared {
            let odd = block.tokens.start / tiling.block_tokens % 2;
            (params.load_at, params.store_at) = ((odd * units) as u32, ((1 - odd) * units) as u32);
        } else if packed {
            params.memory_step = units as u32;
        }
        let memory = tiling.memory(MEMORY);
        steps.push(tiling.address(block, memory));
        let continued = block.tokens.start > 0;
        let goes_on = block.tokens.end < c.qkv.queries;
        if c.mode.carry || continued {
            let masses = block.params.memories as usize * c.slots_of_a_head();
            let cost = Cost {
                bytes_read: masses as f64 * 4.0,
                bytes_written: (masses * self.copies(c)) as f64 * 4.0,
                ..Cost::default()
            };
            let groups = masses.div_ceil(ELEMENTS);
            steps.push(tiling.step(&MASSES, &block.params, tiling.consts(), &[memory, MASSES_COPY], groups, cost));
        }

        let groups = units * c.mode.sequences.unwrap_or(1) * self.blocks(c);
        let per = c.topk.div_ceil(self.ranks);
        let consts = [("COLUMNS", self.columns), ("RANKS", self.ranks), ("PER", per), ("BATCH", self.batch)];
        let consts = [tiling.consts(), consts.map(|(name, value)| (name, value as u32)).to_vec()].concat();
        let outputs = if tiling.runs().in_workspace() { OUTPUTS_F32 } else { OUTPUTS_STORED };
        let variant = Variant::new(DType::F32, consts, vec![("SUMMED", block.run.summed.into())])
            .with(&[if self.shared { IN_WORKGROUP } else { IN_MEMORY }, outputs]);
        steps.push(tiling.step_of(
            &TABLE,
            &block.params,
            tiling.spanned(variant, block.run),
            &[
                EVENT_KEYS,
                WEIGHTS,
                tiling.bind(V, &block.units),
                memory,
                tiling.bind(O, &block.units),
                MASSES_COPY,
                tiling.borders(),
            ],
            groups,
            self.cost(tiling, block, [units, tokens], [continued, goes_on]),
        ));
    }

    /// Work of the table of a block. Whatever each invocation loads counts, also where several load the same.
    fn cost(
        &self,
        tiling: &Tiling<'_>,
        block: &Block,
        [units, tokens]: [usize; 2],
        [continued, goes_on]: [bool; 2],
    ) -> Cost {
        let c = tiling.c;
        let (e, slots, topk) = (c.qkv.dim_v, c.slots_of_a_head(), c.topk);
        let (per, blocks, lanes) = (topk.div_ceil(self.ranks), self.blocks(c), self.columns * self.ranks);
        // Sequences that have tokens in this block, at most.
        let sequences = c.mode.sequences.unwrap_or(1).min(tokens);
        let memories = units * sequences;
        let carried = c.mode.carry;
        let opened = if carried {
            memories
        } else if continued {
            units
        } else {
            0
        };
        let closed = if carried {
            memories
        } else if goes_on {
            units
        } else {
            0
        };
        let moved = if carried && (c.mode.sequences.is_some() || !goes_on) { memories * 2 } else { 0 };
        // Invocations that take tokens, of one token in each sequence; and tokens that they load, with those that fill batches.
        let invocations = memories * blocks * lanes;
        let loaded = units * blocks * lanes * (tokens.div_ceil(self.batch) + 1 + 2 * (sequences - 1)) * self.batch;
        let borders = units * c.mode.sequences.map_or(0, |count| 2 * count) * blocks * lanes;
        let words = invocations * 3 * per + loaded * 5 * per + moved + borders;
        let [written, added] = tiling.output_bytes(block.run);
        let outputs = (units * tokens * e) as f64;
        let mut cost = Cost {
            flops: (units * tokens) as f64 * 5.0 * (topk * e) as f64,
            bytes_read: words as f64 * 4.0 + (loaded * c.qkv.dtype.size()) as f64 + outputs * added,
            bytes_written: (moved + closed * slots) as f64 * 4.0 + outputs * written,
            ..Cost::default()
        };
        if self.shared {
            cost.bytes_read += (opened * slots * (e + blocks)) as f64 * 4.0;
            cost.bytes_written += (closed * slots * e) as f64 * 4.0;
        } else {
            // Per token, contents and a mass of each access; masses once more where a memory is stored.
            let accesses = (tokens + (2 * sequences - 1) * self.batch) * units * blocks * lanes * per;
            cost.bytes_read += (accesses * 3 + closed * slots + invocations * per) as f64 * 4.0;
            let writes = (tokens + sequences) * units * topk * (e + blocks);
            let cleared = if carried { 0 } else { memories * slots * (e + blocks) };
            cost.bytes_written += (writes + cleared) as f64 * 4.0;
        }
        cost
    }
}

/// Floats of workgroup memory that a table may take.
fn floats(caps: &Caps) -> usize {
    FLOATS.min(caps.limits.max_compute_workgroup_storage_size as usize / 4)
}
