//! Builds the GPU program of a configuration: uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! A *block* is a range of tokens whose addresses are computed together. Blocks follow one another, and so do *waves* of heads
//! if one binding cannot hold all heads. The events of a block are the writes and reads of its tokens, K of each per token. They
//! are applied in one of two forms:
//!
//! - [`Form::Table`]: workgroups take the tokens in order, each with some columns of one memory in a table (`table.rs`). This
//!   form has few dispatches, whatever the length, and is chosen where the table fits in workgroup memory. Packed sequences
//!   always take it: where the table does not fit, it lies in the memory itself.
//! - [`Form::Pieces`]: the events of a block are sorted by slot, and its slots are processed side by side (`pieces.rs`).
//!
//! Workspace: per token and head of a block, 20 K bytes of slots, weights and retentions, and what the form needs. A block is
//! limited to 32 MiB of it, so the workspace does not grow with N. Without a carried state, the workspace also holds the
//! memory, `4 P^U (E + 1) + 8` bytes per head, unless one block has all tokens and the table is in workgroup memory.

use std::ops::Range;

use super::{Cape, Config, NAME, Rule, pieces, table};
use crate::cores::packed::PACKED_TOKENS;
use crate::cores::recurrence::kernels;
use crate::cores::recurrence::runs::{Run, Runs};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{
    Cost, Named, Operand, Program, Scratch, Step, aligned, backward, check_indices, check_workspace,
};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths, strides_of};
use crate::ops::primitives::topk::{self, Lanes};
use crate::ops::primitives::{gather, quantize};
use crate::tensor::{DType, Layout, Slot};

params! {
    /// Must match `struct Params` in `shaders/ramnet/types.wgsl`.
    pub(super) struct Params {
        grid: Grid,
        heads: u32,
        pub(super) units: u32,
        first_unit: u32,
        pub(super) memory_first: u32,
        first_token: u32,
        pub(super) tokens: u32,
        pub(super) tiles: u32,
        pub(super) tile_tokens: u32,
        pub(super) pieces: u32,
        dim_v: u32,
        mass_at: u32,
        pub(super) position_at: u32,
        pub(super) advance: u32,
        tau: f32,
        mass_eps: f32,
        initial: f32,
        length: u32,
        sequences: u32,
        carried: u32,
        pub(super) memories: u32,
        pub(super) memory_step: u32,
        pub(super) load_at: u32,
        pub(super) store_at: u32,
        pub(super) mass_copies: u32,
        q: Strides,
        k: Strides,
        v: Strides,
        gamma: Strides,
        o: Strides,
        cape: [[u32; 4]; 8],
    }
}

const TYPES: Fragment = fragment!("ramnet/types.wgsl");
const RULE: Fragment = fragment!("ramnet/rule.wgsl");
/// Advances the position of a sequence.
pub(super) const POSITION: Fragment = fragment!("ramnet/position.wgsl");
/// Where the sequences of a batch entry begin and end: one, or packed ones.
const WHOLE: Fragment = fragment!("ramnet/whole.wgsl");
const PACKED: Fragment = fragment!("ramnet/packed.wgsl");

/// Why every index of the kernels is within bounds.
pub(super) const PROOF: &str = "slots are below P^U, since the beam keeps distinct addresses made of digits, and events below \
                                those of a block, as are the places of sorted ones and the starts of their runs; the buffers \
                                of these are written by the steps before; tokens are below N, which no border of sequences \
                                exceeds; loops end at consts, uniforms, such borders, or the number of pieces";

/// What every kernel begins with.
pub(super) const COMMON: [Fragment; 2] = [STRIDES_SOURCE, TYPES];

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}

static ADDRESS: Kernel =
    kernel("ramnet_address", &[COMMON[0], COMMON[1], RULE, topk::BEAM, fragment!("ramnet/address.wgsl")]);

static DECODE: Kernel = kernel(
    "ramnet_decode",
    &[COMMON[0], COMMON[1], RULE, topk::BEAM, gather::SUM, POSITION, fragment!("ramnet/decode.wgsl")],
);

static ROUND: Kernel = kernels::round("ramnet_round");

/// Elements per workgroup that clears or copies memory, or sums what was read.
pub(super) const ELEMENTS: usize = 256;
/// Maximum number of bytes of a block: of its events, or of what it reads from the memory.
pub(super) const BLOCK_BYTES: u64 = 32 << 20;

// Slots as in `Config::slots`, and workspace buffers in order.
const Q: usize = 0;
const K: usize = 1;
pub(super) const V: usize = 2;
pub(super) const O: usize = 3;
const GAMMA: usize = 4;
const BORDERS: Named = ("cu_seqlens", Operand::Slot(5));
pub(super) const EVENT_KEYS: Named = ("events", Operand::Workspace(0));
pub(super) const WEIGHTS: Named = ("weights", Operand::Workspace(1));
/// Number of workspace buffers above.
pub(super) const SHARED: usize = 2;

/// How events are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Form {
    /// Tokens in order, with a table.
    Table,
    /// Events sorted by slot, in pieces.
    Pieces,
}

/// Minimum work: each input is read once and each output is written once; of a carried memory, only the slots that
/// tokens can access.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let (n, e) = (token_heads(c), c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let (slots, units) = (c.slots_of_a_head() as f64, (c.mode.states(c.qkv.batch) * c.qkv.heads) as f64);
    let touched = |each: f64| if c.mode.carry { units * slots.min(n / units * each) * (e + 1.0) * 4.0 } else { 0.0 };
    let topk = c.topk as f64;
    let runs = Runs::new(&c.qkv, &c.mode).all().len() as f64;
    let bytes =
        |name: &str| c.slots().iter().find(|slot| slot.name == name).and_then(Slot::checked_bytes).unwrap_or(0) as f64;
    let quantised = Cost {
        flops: c.codebook.map_or(0.0, |book| 3.0 * v * book.codes as f64),
        bytes_read: bytes("codebook"),
        bytes_written: bytes("code"),
        ..Cost::default()
    };
    // A carried position is not counted: it is one or two words per head, which a step reads that is needed anyway.
    quantised
        + Cost {
            bytes_read: (q + k + v + n) * size + touched(topk) + c.mode.border_bytes(),
            bytes_written: o * size + touched(topk),
            ..arithmetic(c, n * runs)
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

/// Builds the dispatches for this device, in the form that suits the shape, or in this one.
pub(super) fn program(c: &Config, caps: &Caps, form: Option<Form>) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.qkv.dtype)?;
    check_indices(NAME, &c.slots())?;
    check_lengths(NAME, &c.qkv)?;
    let tiling = Tiling::new(c, caps, form)?;
    let (mut steps, quantised) = tiling.quantise()?;
    let codes = c.codebook.map_or_else(String::new, |book| format!(", values quantised to {} codes", book.codes));
    if c.mode.decode {
        for units in tiling.waves() {
            steps.push(tiling.decode(units));
        }
        let variant = format!("one token, {} lanes a beam{codes}", tiling.lanes.lanes);
        check_workspace(NAME, &quantised)?;
        return Ok(Program::new(NAME, variant, c.slots(), quantised, steps));
    }
    for run in tiling.runs().all() {
        for units in tiling.waves() {
            tiling.wave(units, run, &mut steps);
        }
    }
    let mut workspace = tiling.workspace();
    tiling.runs().round(&ROUND, 3, false, &mut steps, &mut workspace);
    workspace.extend(quantised);
    check_workspace(NAME, &workspace)?;
    let variant = match &tiling.applied {
        Applied::Table(table) => table.variant(&tiling),
        Applied::Pieces(pieces) => pieces.variant(tiling.block_tokens),
    };
    Ok(Program::new(NAME, variant + &codes + &c.mode.told(), c.slots(), workspace, steps))
}

/// The chosen form with its sizes.
enum Applied {
    Table(table::Table),
    Pieces(pieces::Pieces),
}

/// How tokens and heads are split.
pub(super) struct Tiling<'a> {
    pub(super) c: &'a Config,
    caps: &'a Caps,
    lanes: Lanes,
    applied: Applied,
    pub(super) block_tokens: usize,
    /// Heads per wave.
    pub(super) wave: usize,
}

/// A block of a wave.
pub(super) struct Block {
    pub(super) units: Range<usize>,
    pub(super) tokens: Range<usize>,
    pub(super) run: Run,
    pub(super) params: Params,
}

impl<'a> Tiling<'a> {
    fn new(c: &'a Config, caps: &'a Caps, form: Option<Form>) -> Result<Self, Error> {
        let binding = caps.largest_binding();
        let limit =
            |what: &str, needed: u64| Error::Limit { op: NAME.into(), what: what.into(), needed, limit: binding };
        let table = table::Table::new(c, caps, form);
        let applied = table.map_or_else(|| Applied::Pieces(pieces::Pieces::new(c)), Applied::Table);
        // Bytes per token and head of the largest buffer, and the tokens that a block consists of.
        let (token, step) = match &applied {
            Applied::Table(_) => (12 * c.topk as u64, 1),
            Applied::Pieces(pieces) => (pieces.bytes(), pieces.tile_tokens),
        };
        let longest = match &applied {
            Applied::Table(_) => c.qkv.queries,
            Applied::Pieces(_) => c.mode.segment.unwrap_or(c.qkv.queries),
        };
        let units = c.qkv.kv_units() as u64;
        let step = step.min((binding / token) as usize);
        if step == 0 {
            return Err(limit("what a token reads (bytes)", token));
        }
        let most = units.min(binding / (step as u64 * token));
        let mut wave = most;
        if !c.mode.carry {
            let copies = if let Applied::Table(table) = &applied { table.memories(&c.mode) } else { 1 };
            let memory = c.memory("memory", [copies, 1], c.qkv.dim_v).checked_bytes().unwrap_or(u64::MAX);
            if memory > binding {
                return Err(limit("the memory (bytes of one head)", memory));
            }
            wave = wave.min(binding / memory);
        }
        let lanes = Lanes::new(c.digits(), c.choices, c.topk);
        let mut tiling = Self { c, caps, lanes, applied, block_tokens: step, wave: wave as usize };
        tiling.fit()?;
        // Blocks of sorted events end where they would in any other piece of the sequence with the same segments: neither the
        // number of tokens nor what a wave's memories and tensors take has a say.
        let units = if let Applied::Pieces(_) = &tiling.applied { most } else { tiling.wave as u64 };
        let mut steps = (BLOCK_BYTES.min(binding) / (step as u64 * token * units)).max(1) as usize;
        if let Applied::Pieces(pieces) = &mut tiling.applied {
            pieces.tile_tokens = step;
            steps = steps.min(pieces.most_tiles());
            pieces.tile_tokens = step.min(c.qkv.queries);
        }
        // There is room for whole tiles.
        let room = c.qkv.queries.next_multiple_of(step.min(c.qkv.queries));
        tiling.block_tokens = (steps.min(longest.div_ceil(step)) * step).min(room);
        Ok(tiling)
    }

    pub(super) fn runs(&self) -> Runs<'a> {
        Runs::new(&self.c.qkv, &self.c.mode)
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

    fn workspace(&self) -> Vec<Scratch> {
        let events = (self.wave * self.block_tokens * self.c.topk * 4) as u64;
        let mut list = vec![
            Scratch { name: "events", bytes: 2 * events },
            Scratch { name: "weights and retentions", bytes: 3 * events },
        ];
        match &self.applied {
            Applied::Table(table) => table.workspace(self, &mut list),
            Applied::Pieces(pieces) => pieces.workspace(self, &mut list),
        }
        list
    }

    /// The memory of a wave: the carried state, or the buffer of the workspace with this index, of so many memories.
    pub(super) fn memory(&self, index: usize) -> Named {
        // The state follows the borders of packed sequences.
        let state = GAMMA + 1 + usize::from(self.c.mode.sequences.is_some());
        ("memory", if self.c.mode.carry { Operand::Slot(state) } else { Operand::Workspace(index) })
    }

    /// The parameters that all steps of a wave share. `memories` is the number of memories per head without a carried state.
    fn params(&self, units: &Range<usize>, memories: usize, run: Run) -> Params {
        let c = self.c;
        let s = &c.qkv;
        let memory = if c.mode.carry { c.state_slot() } else { c.memory("memory", [memories, units.len()], s.dim_v) };
        let base = |slot: usize| self.part(&c.slots()[slot], units).0 as u32;
        let [mut q, mut k, mut v, mut o] = s.strides();
        let mut gamma = strides_of(s.layout, s.heads, s.queries, 1);
        (q[3], k[3], gamma[3]) = (base(Q), base(K), base(GAMMA));
        if c.codebook.is_none() {
            v[3] = base(V);
        }
        if !self.runs().in_workspace() {
            o[3] = base(O);
        }
        let turn = |strides| if run.backward { backward(strides, s.queries as u32 - 1) } else { strides };
        let [q, k, v, gamma, o] = [q, k, v, gamma, o].map(turn);
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
            dim_v: s.dim_v as u32,
            mass_at: memory.parts[1].offset as u32,
            position_at: memory.parts[2].offset as u32,
            tau: c.tau,
            mass_eps: c.effective_mass_eps(),
            initial: c.initial_mass(),
            length: s.queries as u32,
            sequences: c.mode.sequences.unwrap_or(1) as u32,
            carried: c.mode.carry.into(),
            memories: memory.parts[1].shape.dims()[..2].iter().product::<usize>() as u32,
            q,
            k,
            v,
            gamma,
            o,
            cape,
            ..Params::default()
        }
    }

    /// The first of the workspace buffers that quantisation of the values takes.
    fn quantised(&self) -> usize {
        let others = self.workspace().len() + usize::from(self.runs().in_workspace());
        if self.c.mode.decode { 0 } else { others }
    }

    /// Replaces the values by their nearest codes, if there is a codebook: the dispatches and their workspace, of which the
    /// first buffer has the codes instead of v.
    fn quantise(&self) -> Result<(Vec<Step>, Vec<Scratch>), Error> {
        let Some(quantize) = self.c.quantize() else { return Ok((vec![], vec![])) };
        let (slots, limit) = (self.c.slots(), self.caps.largest_binding());
        let bytes = slots[V].checked_bytes().unwrap_or(u64::MAX);
        if bytes > limit {
            let what = "tensor `v` (bytes, with a codebook)".to_owned();
            return Err(Error::Limit { op: NAME.into(), what, needed: bytes, limit });
        }
        let first = self.quantised();
        let slot = |name: &str| slots.iter().position(|slot| slot.name == name).map(Operand::Slot);
        let mut workspace = vec![
            Scratch { name: "quantised values", bytes },
            Scratch { name: "least distances", bytes: quantize.found_bytes(self.caps) },
        ];
        let code = slot("code").unwrap_or(Operand::Workspace(first + 2));
        if slot("code").is_none() {
            workspace.push(Scratch { name: "codes", bytes: token_heads(self.c) as u64 * 4 });
        }
        let operands = quantize::Operands {
            x: Operand::Slot(V),
            codebook: slot("codebook").unwrap_or(Operand::Slot(V)),
            found: Operand::Workspace(first + 1),
            code,
            o: Operand::Workspace(first),
        };
        Ok((quantize.steps(self.caps, &operands).into(), workspace))
    }

    pub(super) fn bind(&self, slot: usize, units: &Range<usize>) -> Named {
        let tensor = &self.c.slots()[slot];
        if slot == V && self.c.codebook.is_some() {
            return (tensor.name, Operand::Workspace(self.quantised()));
        }
        if slot == O && self.runs().in_workspace() {
            return (tensor.name, Operand::Workspace(self.workspace().len()));
        }
        let (first, count) = self.part(tensor, units);
        (tensor.name, Operand::Part { slot, first, count })
    }

    pub(super) fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![("TOPK", self.c.topk as u32), ("SLOTS", self.c.slots_of_a_head() as u32)]
    }

    fn beam_consts(&self, vectors: usize) -> Vec<(&'static str, u32)> {
        [vec![("SLOTS", self.c.slots_of_a_head() as u32)], self.lanes.consts(vectors)].concat()
    }

    fn rule(&self) -> Vec<(&'static str, u32)> {
        vec![("PDMA", (self.c.rule == Rule::Pdma).into())]
    }

    /// Bytes of an output that a run writes, and of one that it adds.
    pub(super) fn output_bytes(&self, run: Run) -> [f64; 2] {
        let size = if self.runs().in_workspace() { DType::F32 } else { self.c.qkv.dtype }.size() as f64;
        [size, if run.summed { size } else { 0.0 }]
    }

    pub(super) fn step(
        &self,
        kernel: &'static Kernel,
        params: &Params,
        consts: Vec<(&'static str, u32)>,
        operands: &[Named],
        groups: usize,
        cost: Cost,
    ) -> Step {
        self.step_of(kernel, params, Variant::new(DType::F32, consts, vec![]), operands, groups, cost)
    }

    /// One dispatch of a variant, whose storage type is set here.
    pub(super) fn step_of(
        &self,
        kernel: &'static Kernel,
        params: &Params,
        variant: Variant,
        operands: &[Named],
        groups: usize,
        cost: Cost,
    ) -> Step {
        // Steps that bind no tensor of the caller, nor quantised values, do not depend on its storage type.
        let stored = operands.iter().any(|(name, operand)| *name == "v" || matches!(operand, Operand::Part { .. }));
        let elem = if stored { self.c.qkv.dtype } else { DType::F32 };
        Step::new(kernel, Variant { elem, ..variant }, params, operands, groups as u64, cost)
    }

    /// The variant of a kernel that asks where sequences begin and end, in the order of a run.
    pub(super) fn spanned(&self, variant: Variant, run: Run) -> Variant {
        if self.c.mode.sequences.is_none() {
            return variant.with(&[WHOLE]);
        }
        let mut variant = variant.with(&[PACKED, PACKED_TOKENS]);
        variant.overrides.push(("BACKWARD", run.backward.into()));
        variant
    }

    /// The borders of packed sequences, which only kernels bind that ask for them.
    pub(super) fn borders(&self) -> Named {
        BORDERS
    }

    /// Appends the steps of all blocks of these heads.
    fn wave(&self, units: Range<usize>, run: Run, steps: &mut Vec<Step>) {
        let c = self.c;
        let n = c.qkv.queries;
        let (memories, segment) = match &self.applied {
            Applied::Table(table) => (table.memories(&c.mode), n),
            Applied::Pieces(_) => (1, c.mode.segment.unwrap_or(n)),
        };
        let base = self.params(&units, memories, run);
        if let Applied::Pieces(pieces) = &self.applied {
            steps.extend(pieces.clear(self, &base));
        }
        for start in (0..n).step_by(segment) {
            let end = start.saturating_add(segment).min(n);
            for first in (start..end).step_by(self.block_tokens) {
                let tokens = first..end.min(first + self.block_tokens);
                let params = Params { first_token: first as u32, tokens: tokens.len() as u32, ..base };
                let mut block = Block { units: units.clone(), tokens, run, params };
                match &self.applied {
                    Applied::Table(table) => table.block(self, &mut block, steps),
                    Applied::Pieces(pieces) => pieces.block(self, &mut block, steps),
                }
            }
        }
    }

    /// Computes the addresses of a block.
    pub(super) fn address(&self, block: &Block, memory: Named) -> Step {
        let c = self.c;
        let Block { units, tokens, run, params } = block;
        let (size, topk) = (c.qkv.dtype.size() as f64, c.topk as f64);
        let n = (units.len() * tokens.len()) as f64;
        let cape = units.clone().filter(|unit| c.cape.has(unit % c.qkv.heads)).count();
        // Per vector of a head with CAPE: a carried position, and at most so many borders.
        let borders = c.mode.sequences.map_or(0, |count| count.next_power_of_two().ilog2() as usize + 1);
        let looked = 2 * usize::from(c.mode.carry) + borders;
        let vectors = self.lanes.vectors();
        let variant = Variant::new(DType::F32, self.beam_consts(vectors), self.rule());
        self.step_of(
            &ADDRESS,
            params,
            self.spanned(variant, *run),
            &[
                self.bind(Q, units),
                self.bind(K, units),
                self.bind(GAMMA, units),
                self.borders(),
                memory,
                EVENT_KEYS,
                WEIGHTS,
            ],
            (2 * units.len() * tokens.len()).div_ceil(vectors),
            Cost {
                flops: n * 2.0 * self.lanes.work(),
                exps: n * arithmetic(c, 1.0).exps,
                bytes_read: n * (2.0 * self.lanes.loads() as f64 + topk) * size
                    + (cape * tokens.len() * 2 * looked * 4) as f64,
                bytes_written: n * 5.0 * topk * 4.0,
            },
        )
    }

    fn decode(&self, units: Range<usize>) -> Step {
        let c = self.c;
        let params = Params { tokens: 1, tiles: 1, ..self.params(&units, 1, Run::default()) };
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
        operands.extend([self.memory(0), self.bind(O, &units)]);
        let groups = units.len();
        let mut step = self.step(&DECODE, &params, self.beam_consts(2), &operands, groups, cost);
        step.spec.overrides = self.rule();
        step
    }
}
