//! Builds the GPU program of a configuration: tiles, uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! A workgroup processes 8 rows, for up to 16 heads that are mixed, and goes through the keys that the rows see in
//! tiles of 32. Raw scores are computed for one head at a time in workgroup memory, including the rows and keys that
//! the convolutions reach. The mixed scores are held in registers, so that 16 KiB are enough for any kernel size and
//! number of heads. If the softmax is the last stage of the weights, one pass with a running maximum and sum is enough.
//! Otherwise, a first pass writes the maximum and the sum of every row, and a second pass computes the scores again.
//!
//! Workspace: with a stage after the softmax, 8 bytes per head and row. The rows are those of q and, with a carried
//! state, the `cq_post - 1` rows before them. Nothing has the size of queries times keys.

use std::mem::offset_of;

use super::{Config, Gates, MAX_GATE, NAME, NORM_EPS, Taps};
use crate::cores::attention;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::Qkv;
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths};
use crate::tensor::Layout;

params! {
    /// Must match `struct Params` in `shaders/mta/types.wgsl`.
    struct Params {
        grid: Grid,
        queries: u32,
        keys: u32,
        heads: u32,
        kv_heads: u32,
        dim_k: u32,
        dim_v: u32,
        tail: u32,
        rows_before: u32,
        pre_queries: u32,
        pre_keys: u32,
        post_queries: u32,
        post_keys: u32,
        kq_pre: u32,
        kq_post: u32,
        head_pre: u32,
        head_post: u32,
        norm: u32,
        gate_weight: u32,
        gate_bias: u32,
        batch_units: u32,
        unit_heads: u32,
        group: u32,
        head_blocks: u32,
        row_blocks: u32,
        col_splits: u32,
        scale: f32,
        factor: f32,
        norm_eps: f32,
        shift: i32,
        pad: u32,
        pads: [u32; 2],
        q: Strides,
        k: Strides,
        v: Strides,
        o: Strides,
    }
}

const TYPES: Fragment = fragment!("mta/types.wgsl");
const SCORES: Fragment = fragment!("mta/scores.wgsl");

/// Why every index of the kernels is within bounds.
const PROOF: &str = "cells of a tile, and lines of its dimensions, are below what the consts that size the arrays were chosen \
                     for; rows and keys outside the sequence are not read; loops end at consts, uniforms or the keys seen";

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}

static ROWS_PASS: Kernel = kernel("mta_rows", &[STRIDES_SOURCE, TYPES, SCORES, fragment!("mta/rows.wgsl")]);

static OUTPUT: Kernel = kernel("mta_output", &[STRIDES_SOURCE, TYPES, SCORES, fragment!("mta/output.wgsl")]);

static FINISH: Kernel = kernel("mta_finish", &[STRIDES_SOURCE, TYPES, fragment!("mta/finish.wgsl")]);

static TAIL: Kernel = kernel("mta_tail", &[STRIDES_SOURCE, TYPES, fragment!("mta/tail.wgsl")]);

/// Rows and keys of a tile (`ROWS` and `KEYS` in the shader). Each invocation processes one cell of it.
const ROWS: usize = 8;
const KEYS: usize = 32;
const INVOCATIONS: usize = ROWS * KEYS;
/// Maximum number of heads that a workgroup mixes.
const HEADS: usize = 16;
/// Bytes of workgroup memory on every device.
const MEMORY: usize = 16384;
/// Maximum columns of the values times heads per workgroup, whose outputs the invocations hold.
const OUT: usize = 64 * KEYS;
/// Invocations per workgroup that finishes rows or copies queries.
const LANES: usize = 64;

const Q: Named = ("q", Operand::Slot(0));
const K: Named = ("k", Operand::Slot(1));
const V: Named = ("v", Operand::Slot(2));
const O: Named = ("o", Operand::Slot(3));

/// Slots of q, k, v and o (0 to 3), with the byte offsets of their strides in [`Params`].
const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Minimum work: the parts of the inputs that are seen are read once, each output is written once, and only pairs of a
/// query and a key that it sees are computed.
pub(super) fn essential(c: &Config) -> Cost {
    let base = attention::essential(&c.qkv, c.mask());
    let pairs = (c.qkv.batch * c.qkv.heads) as f64 * c.mask().pairs(&c.qkv);
    let bytes = |slot: Option<crate::tensor::Slot>| slot.and_then(|s| s.checked_bytes()).unwrap_or(0) as f64;
    let (weights, tail) = (bytes(c.weights_slot()), bytes(c.tail_slot()));
    let finish = finish_cost(c);
    Cost {
        flops: base.flops + pairs * mixing_flops(c) + finish.flops,
        exps: base.exps + finish.exps,
        bytes_read: base.bytes_read + weights + tail,
        bytes_written: base.bytes_written + tail,
    }
}

/// Flops of all convolutions and mixtures, per pair of a query and a key that it sees.
fn mixing_flops(c: &Config) -> f64 {
    let kernels: usize = [c.kq_pre, c.kq_post].iter().flatten().map(|taps| taps.queries * taps.keys).sum();
    let heads = if c.head_pre { c.qkv.heads } else { 0 } + c.head_post.unwrap_or(0);
    2.0 * (kernels + heads) as f64
}

/// Flops and exponentials of the norm and the gate.
fn finish_cost(c: &Config) -> Cost {
    let [.., o] = c.qkv.elements();
    let rows = o / c.qkv.dim_v as f64;
    let norm = if c.norm { 4.0 * o } else { 0.0 };
    let gates = c.gate.map_or(0.0, |gate| if gate.gates == Gates::Scalar { 1.0 } else { c.qkv.dim_v as f64 });
    let gate = if c.gate.is_some() { (2.0 * gates + 1.0) * o } else { 0.0 };
    Cost { flops: norm + gate, exps: rows * gates, ..Cost::default() }
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.qkv.dtype)?;
    check_indices(NAME, &c.slots())?;
    check_lengths(NAME, &c.qkv)?;
    let plan = Layouts { c, output: Tiles::output(c), rows: c.post().then(|| Tiles::rows(c)) };
    let workspace = plan.workspace();
    check_workspace(NAME, &workspace)?;
    if let Some(stats) = workspace.iter().find(|scratch| scratch.bytes > caps.largest_binding()) {
        let what = format!("workspace `{}` (bytes)", stats.name);
        return Err(Error::Limit { op: NAME.into(), what, needed: stats.bytes, limit: caps.largest_binding() });
    }
    let slots = c.slots();
    let mut steps = Vec::new();
    for step in plan.steps() {
        steps.extend(plan.units().cut(NAME, step, &slots, &STRIDES, caps)?);
    }
    Ok(Program::new(NAME, plan.describe(), slots, workspace, steps))
}

/// The tile sizes of a pass.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    /// Rows and keys whose scores are computed for a tile.
    scores: (usize, usize),
    /// Rows and keys whose raw scores are computed for a tile.
    raw: (usize, usize),
    /// Query heads per unit; and query heads per group, which are those that are mixed, or all of the unit.
    unit_heads: usize,
    group: usize,
    /// Heads per workgroup.
    heads: usize,
    /// Columns of the values per workgroup.
    columns: usize,
    /// Rows of all workgroups together.
    rows: usize,
}

impl Tiles {
    fn new(c: &Config, reach: (usize, usize), group: Option<usize>, mixed: bool) -> Self {
        let pre = Taps::halo(c.kq_pre);
        let scores = (ROWS + reach.0, KEYS + 2 * reach.1);
        let unit_heads = if mixes(c) { c.qkv.heads } else { c.qkv.group() };
        let group = group.unwrap_or(unit_heads);
        let heads = if mixed { group.next_power_of_two().min(HEADS) } else { 1 };
        Self {
            scores,
            raw: (scores.0 + pre.0, scores.1 + 2 * pre.1),
            unit_heads,
            group,
            heads,
            columns: KEYS,
            rows: c.qkv.queries,
        }
    }

    /// The pass for maxima and sums.
    fn rows(c: &Config) -> Self {
        Self { rows: c.qkv.queries + rows_before(c), ..Self::new(c, (0, 0), None, c.head_pre) }
    }

    /// The pass for the output.
    fn output(c: &Config) -> Self {
        let tiles = Self::new(c, Taps::halo(c.kq_post), c.head_post, mixes(c));
        let columns = c.qkv.dim_v.next_power_of_two().clamp(KEYS, 8 * KEYS).min(OUT / tiles.heads);
        Self { columns, ..tiles }
    }

    /// Number of raw tiles that a workgroup computes for a tile of the output. If heads are mixed before the softmax,
    /// every head is computed again for each block of heads.
    fn raw_tiles(&self, c: &Config) -> usize {
        let chunks = if c.head_post.is_some() { self.group.div_ceil(self.heads) } else { 1 };
        match (c.head_pre, c.head_post.is_some()) {
            (true, _) => c.qkv.heads * chunks,
            (false, true) => self.group,
            (false, false) => 1,
        }
    }

    fn head_blocks(&self) -> usize {
        self.unit_heads / self.group * self.group.div_ceil(self.heads)
    }

    fn row_blocks(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    fn col_splits(&self, c: &Config) -> usize {
        c.qkv.dim_v.div_ceil(self.columns)
    }

    /// Consts of the prelude. The cells per invocation are rounded up to a few values, so that there are few different
    /// kernels.
    fn consts(&self, c: &Config) -> Vec<(&'static str, u32)> {
        let each = |(rows, keys): (usize, usize), numbers: &[usize]| {
            let least = (rows * keys).div_ceil(INVOCATIONS);
            numbers.iter().copied().find(|number| *number >= least).unwrap_or(least)
        };
        let most = (ROWS + 30) * (KEYS + 60);
        let raw_each = each(self.raw, &[1, 2, 3, 4, 6, 8, 11, 14]);
        let score_each = each(self.scores, &[1, 2, 3, 4, 6]);
        let value_keys = KEYS * KEYS / self.columns;
        let space = (raw_each * INVOCATIONS).min(most).max(INVOCATIONS + value_keys * self.columns);
        let lines = self.raw.0 + self.raw.1;
        let room = (MEMORY - space.next_multiple_of(4) * 4) / 16;
        let dims = [8, 4, 2, 1].into_iter().find(|four| lines * four <= room && (four / 2) * 4 < c.qkv.dim_k);
        let dim4 = dims.unwrap_or(1);
        vec![
            ("HEADS", self.heads as u32),
            ("RAW_EACH", raw_each as u32),
            ("SCORE_EACH", score_each as u32),
            ("SPACE", space as u32),
            ("DIMS", (lines * dim4).next_multiple_of(64).min(room) as u32),
            ("DIM4", dim4 as u32),
            ("COLUMNS", self.columns as u32),
            ("VALUE_KEYS", value_keys as u32),
        ]
    }
}

/// Whether heads use each other's scores or weights. If so, the unit that workgroups are numbered by is a batch entry.
fn mixes(c: &Config) -> bool {
    c.head_pre || c.head_post.is_some()
}

/// Number of rows before the first query whose maxima and sums are stored.
fn rows_before(c: &Config) -> usize {
    Taps::halo(c.kq_post).0.min(c.rows_before())
}

/// All passes of a configuration.
struct Layouts<'a> {
    c: &'a Config,
    output: Tiles,
    rows: Option<Tiles>,
}

impl Layouts<'_> {
    /// The shapes for splitting steps. If heads are mixed, steps are split at batch entries.
    fn units(&self) -> Qkv {
        let layout = if mixes(self.c) { Layout::Bnhd } else { self.c.qkv.layout };
        self.c.qkv.layout(layout)
    }

    fn workspace(&self) -> Vec<Scratch> {
        let s = &self.c.qkv;
        let rows = s.queries as u64 + rows_before(self.c) as u64;
        let stats = ((s.batch * s.heads) as u64).saturating_mul(rows).saturating_mul(8);
        let mut list = vec![Scratch { name: "absent", bytes: 16 }];
        list.extend(self.c.post().then_some(Scratch { name: "maxima and sums", bytes: stats }));
        list
    }

    /// The operand of a tensor that may be absent.
    fn slot(&self, name: &str) -> Operand {
        // If the tensor is absent, the kernel binds a few bytes of workspace instead and does not read them.
        self.c.slots().iter().position(|slot| slot.name == name).map_or(Operand::Workspace(0), Operand::Slot)
    }

    /// How often each score is computed, except near the ends of the sequence.
    fn recompute(&self) -> f64 {
        let c = self.c;
        let made = |tiles: &Tiles| {
            let again = tiles.raw_tiles(c) * tiles.head_blocks() * tiles.col_splits(c);
            (tiles.raw.0 * tiles.raw.1 * again) as f64 / (INVOCATIONS * tiles.unit_heads) as f64
        };
        let first = self.rows.as_ref().map_or(0.0, |tiles| made(&Tiles { columns: c.qkv.dim_v, ..*tiles }));
        first + made(&self.output)
    }

    fn describe(&self) -> String {
        let passes = if self.rows.is_some() { "two passes" } else { "one pass" };
        let heads = self.output.heads;
        let times = self.recompute();
        format!("{passes}, tiles of {ROWS} queries x {heads} heads by {KEYS} keys, scores computed {times:.1} times")
    }

    fn params(&self, tiles: &Tiles) -> Params {
        let c = self.c;
        let s = &c.qkv;
        let weights = c.weights_slot();
        let at = |name: &str| {
            let part = weights.iter().flat_map(|slot| &slot.parts).find(|part| part.name == name);
            part.map_or(0, |part| part.offset) as u32
        };
        let taps = |taps: Option<Taps>| taps.map_or((1, 1), |taps| (taps.queries as u32, taps.keys as u32));
        let ((pre_queries, pre_keys), (post_queries, post_keys)) = (taps(c.kq_pre), taps(c.kq_post));
        let [q, k, v, o] = s.strides();
        Params {
            queries: s.queries as u32,
            keys: s.keys as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            dim_k: s.dim_k as u32,
            dim_v: s.dim_v as u32,
            tail: c.rows_before() as u32,
            rows_before: rows_before(c) as u32,
            pre_queries,
            pre_keys,
            post_queries,
            post_keys,
            kq_pre: at("kq_pre"),
            kq_post: at("kq_post"),
            head_pre: at("head_pre"),
            head_post: at("head_post"),
            norm: at("norm"),
            gate_weight: at("gate_weight"),
            gate_bias: at("gate_bias"),
            batch_units: (s.heads / tiles.unit_heads) as u32,
            unit_heads: tiles.unit_heads as u32,
            group: tiles.group as u32,
            head_blocks: tiles.head_blocks() as u32,
            row_blocks: tiles.row_blocks() as u32,
            col_splits: tiles.col_splits(c) as u32,
            scale: c.effective_scale(),
            factor: c.depth_factor() as f32,
            norm_eps: NORM_EPS,
            shift: c.shift() as i32,
            q,
            k,
            v,
            o,
            ..Params::default()
        }
    }

    fn step(&self, kernel: &'static Kernel, tiles: &Tiles, operands: &[Named], groups: usize, cost: Cost) -> Step {
        let spec = Variant::new(self.c.qkv.dtype, vec![], vec![]);
        Step::new(kernel, spec, &self.params(tiles), operands, groups as u64, cost)
    }

    /// Specialises a step that computes scores.
    fn scoring(&self, mut step: Step, tiles: &Tiles) -> Step {
        let c = self.c;
        step.spec.consts = tiles.consts(c);
        step.spec.overrides.extend([
            ("CAUSAL", c.causal.into()),
            ("KQ_PRE", c.kq_pre.is_some().into()),
            ("HEAD_PRE", c.head_pre.into()),
        ]);
        step
    }

    fn steps(&self) -> Vec<Step> {
        let c = self.c;
        let s = &c.qkv;
        let [tail, weights] = ["q_tail", "weights"].map(|name| (name, self.slot(name)));
        let stats = ("stats", Operand::Workspace(usize::from(c.post())));
        let units = |tiles: &Tiles| s.batch * s.heads / tiles.unit_heads * tiles.head_blocks() * tiles.row_blocks();
        let mut steps = Vec::new();
        if let Some(tiles) = self.rows {
            // This pass does not read the values.
            let tiles = Tiles { columns: s.dim_v, ..tiles };
            let cost = Cost { bytes_written: self.stats_bytes(), ..self.cost(&tiles, 0.0) };
            let step = self.step(&ROWS_PASS, &tiles, &[Q, K, tail, weights, stats], units(&tiles), cost);
            steps.push(self.scoring(step, &Tiles { columns: KEYS, ..tiles }));
        }
        let tiles = &self.output;
        let columns = tiles.columns * tiles.col_splits(c);
        let [.., o] = s.elements();
        let cost = Cost { bytes_written: o * s.dtype.size() as f64, ..self.cost(tiles, columns as f64) };
        let groups = units(tiles) * tiles.col_splits(c);
        let mut step =
            self.scoring(self.step(&OUTPUT, tiles, &[Q, K, tail, weights, stats, V, O], groups, cost), tiles);
        step.spec.overrides.extend([
            ("POST", c.post().into()),
            ("KQ_POST", c.kq_post.is_some().into()),
            ("HEAD_POST", c.head_post.is_some().into()),
        ]);
        steps.push(step);
        steps.extend(self.finish(weights));
        if c.tail_slot().is_some() {
            let elements = (s.batch * s.heads * c.tail() * s.dim_k) as f64;
            let cost = Cost { bytes_read: elements * 4.0, bytes_written: elements * 4.0, ..Cost::default() };
            let groups = s.batch * s.heads * s.dim_k.div_ceil(LANES);
            steps.push(self.step(&TAIL, tiles, &[Q, tail], groups, cost));
        }
        steps
    }

    fn finish(&self, weights: Named) -> Option<Step> {
        let c = self.c;
        if !c.norm && c.gate.is_none() {
            return None;
        }
        let [.., o] = c.qkv.elements();
        let bytes = o * c.qkv.dtype.size() as f64;
        let reads = 1.0 + f64::from(u8::from(c.norm)) + f64::from(u8::from(self.gates() == 1));
        let cost = Cost { bytes_read: reads * bytes, bytes_written: bytes, ..finish_cost(c) };
        let rows = c.qkv.batch * c.qkv.heads * c.qkv.queries;
        let mut step = self.step(&FINISH, &self.output, &[weights, O], rows, cost);
        // Workgroup memory for one row, rounded up to a few sizes.
        let room = [64, 256].into_iter().find(|room| c.qkv.dim_v <= *room).unwrap_or(MAX_GATE);
        step.spec.consts = vec![("ROOM", if self.gates() == 2 { room as u32 } else { 1 })];
        step.spec.overrides = vec![
            ("NORM", c.norm.into()),
            ("GATES", self.gates()),
            ("BIAS", c.gate.is_some_and(|gate| gate.bias).into()),
        ];
        Some(step)
    }

    /// Value of the const `GATES` in the shader.
    fn gates(&self) -> u32 {
        self.c.gate.map_or(0, |gate| if gate.gates == Gates::Scalar { 1 } else { 2 })
    }

    fn stats_bytes(&self) -> f64 {
        self.workspace().get(1).map_or(0, |stats| stats.bytes) as f64
    }

    /// Reads and computations of a pass, including those that only pad a tile. `columns` is the number of columns of
    /// the values.
    fn cost(&self, tiles: &Tiles, columns: f64) -> Cost {
        let (c, s) = (self.c, &self.c.qkv);
        // Number of tiles of all row blocks, for one block of heads and columns.
        let before = tiles.rows as isize - s.queries as isize;
        let last = |block: usize| ((block + 1) * ROWS).min(tiles.rows) as isize - 1 - before;
        let walked: usize = (0..tiles.row_blocks()).map(|block| c.keys_seen(last(block)).div_ceil(KEYS)).sum();
        let head_blocks = s.batch * s.heads / tiles.unit_heads * tiles.head_blocks();
        let walked = (walked * head_blocks * tiles.col_splits(c)) as f64;
        let cells = |(rows, keys): (usize, usize)| (rows * keys) as f64;
        let taps = |taps: Option<Taps>| taps.map_or(0, |taps| taps.queries * taps.keys) as f64;
        let raw_tiles = tiles.raw_tiles(c) as f64;
        let weighed = if c.head_post.is_some() { tiles.group } else { tiles.heads } as f64;
        let dims = s.dim_k.next_multiple_of(4) as f64;
        let mixed = |given: bool| if given { 2.0 * tiles.heads as f64 } else { 0.0 };
        let raw = cells(tiles.raw) * 2.0 * dims;
        let scores = cells(tiles.scores) * (2.0 * taps(c.kq_pre) + mixed(c.head_pre));
        let after = weighed * INVOCATIONS as f64 * (2.0 * taps(c.kq_post) + mixed(c.head_post.is_some()));
        let values = tiles.heads as f64 * INVOCATIONS as f64 / tiles.col_splits(c) as f64 * 2.0 * columns;
        let exps = if c.post() { weighed * cells(tiles.scores) } else { tiles.heads as f64 * INVOCATIONS as f64 };
        let size = s.dtype.size() as f64;
        let lines = (tiles.raw.0 + tiles.raw.1) as f64 * s.dim_k as f64;
        let read_values = tiles.heads as f64 * KEYS as f64 * columns / tiles.col_splits(c) as f64;
        let stats = if c.post() && columns > 0.0 { 8.0 * weighed * cells(tiles.scores) } else { 0.0 };
        let weights = c.weights_slot().and_then(|slot| slot.checked_bytes()).unwrap_or(0) as f64;
        let tail = c.tail_slot().and_then(|slot| slot.checked_bytes()).unwrap_or(0) as f64;
        Cost {
            flops: walked * (raw_tiles * (raw + scores) + if columns > 0.0 { after + values } else { 0.0 }),
            exps: walked * exps,
            bytes_read: walked * (raw_tiles * lines * size + read_values * size + stats) + weights + tail,
            bytes_written: 0.0,
        }
    }
}
