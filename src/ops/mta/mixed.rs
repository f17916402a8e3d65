//! Heads whose scores or weights are mixed: tiles and dispatches. Pure.
//!
//! A workgroup processes 8 rows, for up to 16 heads that are mixed, and goes through the keys that the rows see in
//! tiles of 32. Raw scores are computed for one head at a time in workgroup memory, including the rows and keys that
//! the convolutions reach. The mixed scores are held in registers, so that 16 KiB are enough for any kernel size and
//! number of heads.

use super::layout::{K, Layouts, MEMORY, Params, Parts, Q, ROW_STATS, SCORES, Splits, TYPES, V, kernel, rows_before};
use super::{Config, Taps};
use crate::cores::rows::{self, KEYS_STORED, ROWS as ROW_LOADS};
use crate::gpu::Caps;
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
    &[STRIDES_SOURCE, TYPES, ROW_LOADS, SCORES, MIXED, ROW_STATS, fragment!("mta/mixed_output.wgsl")],
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
/// Maximum number of heads whose values meet their weights at the same time.
const PARALLEL: usize = 4;
/// Floats of workgroup memory for each of them: a padded tile of weights, parts of its rows, and a number for each row.
const WEIGHTS: usize = ROWS * (KEYS + 1) + ROWS * 8 + ROWS;
/// Tiles per workgroup, if workgroups share the keys.
const SPLIT_TILES: usize = 4;

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

    /// Heads of all workgroups together whose scores are computed, in the pass for the output or in that for the rows.
    fn scored(&self, c: &Config, output: bool) -> usize {
        if output && c.head_post.is_some() { self.head_blocks() * self.group } else { self.unit_heads }
    }

    /// Heads of all workgroups together whose raw scores are computed. If heads are mixed before the softmax, each is
    /// computed again for every block of heads.
    fn raw_heads(&self, c: &Config, output: bool) -> usize {
        let chunks = if output && c.head_post.is_some() { self.group.div_ceil(self.heads) } else { 1 };
        if c.head_pre { self.head_blocks() * self.unit_heads * chunks } else { self.scored(c, output) }
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
        let cells = |(rows, keys): (usize, usize)| rows * keys;
        let most = self.heads.min(PARALLEL);
        let space = cells(self.raw).max(cells(self.scores) + 2 * self.scores.0).max(most * WEIGHTS);
        let room = (MEMORY - (space + HEADS).next_multiple_of(4) * 4) / 16;
        let lines = self.raw.0 + self.raw.1;
        let dims = [8, 4, 2].into_iter().find(|four| lines * (four + 1) <= room && (four / 2) * 4 < c.qkv.dim_k);
        // The largest tile leaves room for a slice of one vector without padding only.
        let (dim4, stride) = dims.map_or((1, 1), |four| (four, four + 1));
        let width = self.columns / 4;
        let parallel = [4, 2, 1].into_iter().find(|heads| *heads <= most && heads * width <= room).unwrap_or(1);
        let fits = |keys: &usize| parallel * keys * width <= room;
        let value_keys = [KEYS, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
        let queries = |taps: Option<Taps>| taps.map_or(1, |taps| taps.queries);
        let kernel = |taps: Taps| taps.keys * taps.queries.div_ceil(4);
        let kernels = [c.kq_pre, post].into_iter().flatten().map(kernel).max().unwrap_or(0);
        let dims = (lines * stride).max(kernels).max(parallel * value_keys * width);
        [
            ("HEADS", self.heads),
            ("SCORE_HEIGHT", self.scores.0),
            ("SCORE_WIDTH", self.scores.1),
            ("RAW_HEIGHT", self.raw.0),
            ("RAW_WIDTH", self.raw.1),
            ("PRE_QUERIES", queries(c.kq_pre)),
            ("POST_QUERIES", queries(post)),
            ("SPACE", space),
            ("DIMS", dims),
            ("DIM4", dim4),
            ("DIM_STRIDE", stride),
            ("COLUMNS", self.columns),
            ("PARALLEL", parallel),
            ("VALUE_KEYS", value_keys),
        ]
        .map(|(name, value)| (name, value as u32))
        .to_vec()
    }

    /// What the blocks and splits compute and load for one block of heads and columns.
    fn walk(&self, c: &Config, split_keys: usize) -> Walk {
        let (queries, keys) = (c.qkv.queries as isize, c.qkv.keys);
        let before = (self.rows as isize) - queries;
        let side = (self.raw.1 - KEYS) / 2;
        let mut walk = Walk::default();
        for block in 0..self.row_blocks() {
            let first = (block * ROWS) as isize - before;
            let last = (first + ROWS as isize).min(queries);
            // A tile of so many rows ends with the block's; some before the first query are known.
            let existing = |height: usize, known: usize| {
                (last - (first + ROWS as isize - height as isize).max(-(known as isize))).max(0) as f64
            };
            let (raw, stats) = (existing(self.raw.0, c.rows_before()), existing(self.scores.0, rows_before(c)));
            let seen = c.keys_seen(last - 1);
            for start in (0..seen).step_by(split_keys) {
                let end = (start + split_keys).min(seen);
                let tiles = (end - start).div_ceil(KEYS);
                walk.tiles += tiles as f64;
                walk.rows += raw * tiles as f64;
                walk.stats += stats * tiles as f64;
                walk.values += (end - start) as f64;
                // Keys before the first and past the last are not loaded.
                let behind = |tile: usize| (start + tile * KEYS + KEYS + side).saturating_sub(keys).min(self.raw.1);
                let outside: usize = (tiles.saturating_sub(3)..tiles).map(behind).sum();
                walk.keys += (tiles * self.raw.1 - side.saturating_sub(start) - outside) as f64;
            }
        }
        walk
    }
}

/// Sums over the blocks of rows and splits of the keys, for one block of heads and columns: tiles; per tile and head the raw
/// rows and keys that are loaded, and the rows whose maxima and sums are; values.
#[derive(Default)]
struct Walk {
    tiles: f64,
    rows: f64,
    keys: f64,
    stats: f64,
    values: f64,
}

/// The passes over the scores of mixed heads.
pub(super) fn parts(layouts: &Layouts<'_>, caps: &Caps) -> Parts {
    let c = layouts.c;
    let (output, rows) = (Tiles::output(c), c.post().then(|| Tiles::rows(c)));
    let groups = c.qkv.batch * output.head_blocks() * output.row_blocks() * output.col_splits(c);
    let splits = layouts.splits(groups, SPLIT_TILES * KEYS, caps);
    let passes = Passes { layouts, c, caps, output, rows, splits };
    let units = c.qkv.layout(Layout::Bnhd);
    Parts { variant: passes.describe(), workspace: layouts.workspace(splits), steps: passes.steps(), units }
}

struct Passes<'a> {
    layouts: &'a Layouts<'a>,
    c: &'a Config,
    caps: &'a Caps,
    output: Tiles,
    rows: Option<Tiles>,
    splits: Splits,
}

impl Passes<'_> {
    /// How often each score is computed, except near the ends of the sequence.
    fn recompute(&self) -> f64 {
        let c = self.c;
        let made = |tiles: &Tiles, heads: usize| {
            (tiles.raw.0 * tiles.raw.1 * heads) as f64 / (INVOCATIONS * tiles.unit_heads) as f64
        };
        let first = self.rows.as_ref().map_or(0.0, |tiles| made(tiles, tiles.raw_heads(c, false)));
        first + made(&self.output, self.output.raw_heads(c, true) * self.output.col_splits(c))
    }

    fn describe(&self) -> String {
        let passes = if self.rows.is_some() { "two passes" } else { "one pass" };
        let heads = self.output.heads;
        let (splits, times) = (self.splits.describe(), self.recompute());
        format!(
            "{passes}, {splits}tiles of {ROWS} queries x {heads} heads by {KEYS} keys, scores computed {times:.1} times"
        )
    }

    fn params(&self, tiles: &Tiles) -> Params {
        Params {
            group: tiles.group as u32,
            head_blocks: tiles.head_blocks() as u32,
            row_blocks: tiles.row_blocks() as u32,
            col_splits: tiles.col_splits(self.c) as u32,
            ..self.layouts.params(self.splits)
        }
    }

    /// A step that computes scores.
    fn step(
        &self,
        kernel: &'static Kernel,
        tiles: &Tiles,
        post: Option<Taps>,
        (wanted, fragments, operands): (&[usize], &[Fragment], &[Named]),
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
        let (spec, narrow) = rows::rows(&c.qkv, &spec, KEYS_STORED, wanted, [fragments; 2]);
        let [tail, weights] = ["q_tail", "weights"].map(|name| self.layouts.slot(name));
        let operands = [operands, &[Q, K, tail, weights, self.layouts.stats()]].concat();
        Step::new(kernel, spec, &self.params(tiles), &operands, groups as u64, cost).or_narrow(narrow)
    }

    fn steps(&self) -> Vec<Step> {
        let (c, s) = (self.c, &self.c.qkv);
        let groups = |tiles: &Tiles| s.batch * tiles.head_blocks() * tiles.row_blocks() * self.splits.count;
        let mut steps = Vec::new();
        if let Some(tiles) = self.rows {
            // This pass does not read the values.
            let tiles = Tiles { columns: s.dim_v, ..tiles };
            let mut cost = self.cost(&tiles, false);
            cost.bytes_written = (s.batch * s.heads * tiles.rows * self.splits.count * 8) as f64;
            let wanted = (&[rows::Q, rows::K][..], &[][..], &[][..]);
            steps.push(self.step(&ROWS_PASS, &tiles, None, wanted, groups(&tiles), cost));
        }
        let tiles = &self.output;
        let stores = self.layouts.stores(self.splits);
        let cost = Cost { bytes_written: stores.bytes, ..self.cost(tiles, true) };
        let wanted = (stores.wanted, stores.fragments, &[V, stores.operand][..]);
        let mut step = self.step(&OUTPUT, tiles, c.kq_post, wanted, groups(tiles) * tiles.col_splits(c), cost);
        let stages = [
            ("POST", c.post().into()),
            ("KQ_POST", c.kq_post.is_some().into()),
            ("HEAD_POST", c.head_post.is_some().into()),
        ];
        for spec in std::iter::once(&mut step.spec).chain(&mut step.narrow) {
            spec.overrides.extend(stages);
        }
        steps.push(step);
        steps.extend(self.layouts.merge(self.splits, self.caps));
        steps
    }

    /// Loads and computations of a pass, including those that only fill a tile. `output`: it is the pass for the output.
    fn cost(&self, tiles: &Tiles, output: bool) -> Cost {
        let (c, s) = (self.c, &self.c.qkv);
        let walk = tiles.walk(c, self.splits.keys);
        let cells = |(rows, keys): (usize, usize)| (rows * keys) as f64;
        let size = |taps: Option<Taps>| taps.map_or(0, |taps| taps.queries * taps.keys) as f64;
        let (head_post, post) = (output && c.head_post.is_some(), output && c.post());
        let (heads, group) = (s.heads as f64, tiles.group as f64);
        let (scored, raw) = (tiles.scored(c, output) as f64, tiles.raw_heads(c, output) as f64);
        let factors = if c.head_pre { heads * scored } else { 0.0 } + if head_post { group * heads } else { 0.0 };
        let taps = raw * size(c.kq_pre) + if output { scored * size(c.kq_post) } else { 0.0 };
        let dims = s.dim_k.next_multiple_of(4) as f64;
        let mixed = |given: bool| if given { 2.0 * tiles.heads as f64 } else { 0.0 };
        let mixing = cells(tiles.scores) * (2.0 * size(c.kq_pre) + mixed(c.head_pre));
        let mut tile = raw * (cells(tiles.raw) * 2.0 * dims + mixing);
        if output {
            let values = 2.0 * (tiles.head_blocks() * tiles.heads * tiles.columns) as f64;
            tile += INVOCATIONS as f64 * values;
            tile += INVOCATIONS as f64 * scored * (2.0 * size(c.kq_post) + mixed(head_post));
        }
        let splits = (s.batch * tiles.col_splits(c)) as f64;
        let vectors = raw * (walk.rows + walk.keys) * (s.dim_k * s.dtype.size()) as f64;
        let stats = if post { scored * walk.stats * self.splits.count as f64 * 8.0 } else { 0.0 };
        let values = if output { (s.batch * s.heads * s.dim_v * s.dtype.size()) as f64 * walk.values } else { 0.0 };
        Cost {
            flops: splits * walk.tiles * tile,
            exps: splits * walk.tiles * scored * if post { cells(tiles.scores) } else { INVOCATIONS as f64 },
            bytes_read: splits * (vectors + stats + walk.tiles * 4.0 * (taps + factors)) + values,
            bytes_written: 0.0,
        }
    }
}
