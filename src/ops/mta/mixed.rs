//! Heads whose scores or weights are mixed: tiles and dispatches. Pure.
//!
//! A workgroup processes 8 rows, for up to 16 heads that are mixed, and goes through the keys that the rows see in
//! tiles of 32. Raw scores are computed for one head at a time in workgroup memory, including the rows and keys that
//! the convolutions reach. The mixed scores are held in registers, so that 16 KiB are enough for any kernel size and
//! number of heads.

use super::layout::{K, Layouts, MEMORY, O, Params, Parts, Q, SCORES, TYPES, V, kernel, rows_before};
use super::{Config, Taps};
use crate::cores::rows::{self, KEYS_STORED, ROWS as ROW_LOADS};
use crate::gpu::program::{Cost, Named, Step};
use crate::gpu::shader::{Fragment, Kernel, Variant, fragment};
use crate::operator::qkv::STRIDES_SOURCE;
use crate::tensor::Layout;

const MIXED: Fragment = fragment!("mta/mixed.wgsl");

/// Why every index of the kernels is within bounds.
const PROOF: &str = "cells of a tile, and lines of its dimensions, are below what the consts that size the arrays were chosen for; \
     rows and keys outside the sequence repeat the outermost; loops end at consts, uniforms or the keys seen";

static ROWS_PASS: Kernel = kernel(
    "mta_mixed_rows",
    &[STRIDES_SOURCE, TYPES, ROW_LOADS, SCORES, MIXED, fragment!("mta/mixed_rows.wgsl")],
    PROOF,
);

static OUTPUT: Kernel = kernel(
    "mta_mixed_output",
    &[STRIDES_SOURCE, TYPES, ROW_LOADS, SCORES, MIXED, fragment!("mta/mixed_output.wgsl")],
    PROOF,
);

/// Rows and keys of a tile (`ROWS` and `KEYS` in the shader). Each invocation processes one cell of it.
const ROWS: usize = 8;
const KEYS: usize = 32;
const INVOCATIONS: usize = ROWS * KEYS;
/// Maximum number of heads that a workgroup mixes.
const HEADS: usize = 16;
/// Maximum columns of the values times heads per workgroup, whose outputs the invocations hold.
const OUT: usize = 64 * KEYS;

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
        let unit_heads = c.qkv.heads;
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
        let tiles = Self::new(c, Taps::halo(c.kq_post), c.head_post, true);
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

    /// Consts of the prelude. `post` is the convolution after the softmax, if this pass has one.
    fn consts(&self, c: &Config, post: Option<Taps>) -> Vec<(&'static str, u32)> {
        let cells = self.raw.0 * self.raw.1;
        let value_keys = KEYS * KEYS / self.columns;
        let space = cells.max(INVOCATIONS + value_keys * self.columns);
        let lines = self.raw.0 + self.raw.1;
        let room = (MEMORY - space.next_multiple_of(4) * 4) / 16;
        let dims = [8, 4, 2].into_iter().find(|four| lines * (four + 1) <= room && (four / 2) * 4 < c.qkv.dim_k);
        // The largest tile leaves room for a slice of one vector without padding only.
        let (dim4, stride) = dims.map_or((1, 1), |four| (four, four + 1));
        let queries = |taps: Option<Taps>| taps.map_or(1, |taps| taps.queries as u32);
        vec![
            ("HEADS", self.heads as u32),
            ("SCORE_HEIGHT", self.scores.0 as u32),
            ("SCORE_WIDTH", self.scores.1 as u32),
            ("RAW_HEIGHT", self.raw.0 as u32),
            ("RAW_WIDTH", self.raw.1 as u32),
            ("PRE_QUERIES", queries(c.kq_pre)),
            ("POST_QUERIES", queries(post)),
            ("SPACE", space as u32),
            ("DIMS", (lines * stride) as u32),
            ("DIM4", dim4 as u32),
            ("DIM_STRIDE", stride as u32),
            ("COLUMNS", self.columns as u32),
            ("VALUE_KEYS", value_keys as u32),
        ]
    }
}

/// The passes over the scores of mixed heads.
pub(super) fn parts(layouts: &Layouts<'_>) -> Parts {
    let c = layouts.c;
    let passes = Passes { layouts, c, output: Tiles::output(c), rows: c.post().then(|| Tiles::rows(c)) };
    let units = c.qkv.layout(Layout::Bnhd);
    Parts { variant: passes.describe(), workspace: layouts.workspace(1), steps: passes.steps(), units }
}

struct Passes<'a> {
    layouts: &'a Layouts<'a>,
    c: &'a Config,
    output: Tiles,
    rows: Option<Tiles>,
}

impl Passes<'_> {
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
        Params {
            group: tiles.group as u32,
            head_blocks: tiles.head_blocks() as u32,
            row_blocks: tiles.row_blocks() as u32,
            col_splits: tiles.col_splits(self.c) as u32,
            ..self.layouts.params()
        }
    }

    /// A step that computes scores.
    fn step(
        &self,
        kernel: &'static Kernel,
        tiles: &Tiles,
        (wanted, post): (&[usize], Option<Taps>),
        operands: &[Named],
        groups: usize,
        cost: Cost,
    ) -> Step {
        let c = self.c;
        let overrides = vec![
            ("CAUSAL", c.causal.into()),
            ("KQ_PRE", c.kq_pre.is_some().into()),
            ("HEAD_PRE", c.head_pre.into()),
            ("CARRY", (c.rows_before() > 0).into()),
        ];
        let spec = Variant::new(c.qkv.dtype, tiles.consts(c, post), overrides);
        let (spec, narrow) = rows::rows(&c.qkv, &spec, KEYS_STORED, wanted, [&[]; 2]);
        let [tail, weights] = ["q_tail", "weights"].map(|name| self.layouts.slot(name));
        let operands = [operands, &[Q, K, tail, weights, self.layouts.stats()]].concat();
        Step::new(kernel, spec, &self.params(tiles), &operands, groups as u64, cost).or_narrow(narrow)
    }

    fn steps(&self) -> Vec<Step> {
        let c = self.c;
        let s = &c.qkv;
        let units = |tiles: &Tiles| s.batch * s.heads / tiles.unit_heads * tiles.head_blocks() * tiles.row_blocks();
        let mut steps = Vec::new();
        if let Some(tiles) = self.rows {
            // This pass does not read the values.
            let stats = (s.batch * s.heads * tiles.rows * 8) as f64;
            let whole = Tiles { columns: s.dim_v, ..tiles };
            let cost = Cost { bytes_written: stats, ..self.cost(&whole, 0.0) };
            let step = self.step(&ROWS_PASS, &tiles, (&[rows::Q, rows::K], None), &[], units(&tiles), cost);
            let params = bytemuck::bytes_of(&self.params(&whole)).to_vec();
            steps.push(Step { params, ..step });
        }
        let tiles = &self.output;
        let columns = tiles.columns * tiles.col_splits(c);
        let [.., o] = s.elements();
        let cost = Cost { bytes_written: o * s.dtype.size() as f64, ..self.cost(tiles, columns as f64) };
        let groups = units(tiles) * tiles.col_splits(c);
        let wanted = (&[rows::Q, rows::K, rows::V][..], c.kq_post);
        let mut step = self.step(&OUTPUT, tiles, wanted, &[V, O], groups, cost);
        let stages = [
            ("POST", c.post().into()),
            ("KQ_POST", c.kq_post.is_some().into()),
            ("HEAD_POST", c.head_post.is_some().into()),
        ];
        for spec in std::iter::once(&mut step.spec).chain(&mut step.narrow) {
            spec.overrides.extend(stages);
        }
        steps.push(step);
        steps
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
