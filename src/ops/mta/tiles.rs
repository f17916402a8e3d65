//! Heads that are not mixed: tiles and dispatches. Pure.
//!
//! A workgroup processes a block of rows of one head and goes through the keys that they see in tiles. Rows above the
//! block that the convolutions reach are computed as well; keys on both sides of a tile are not, because a tile keeps
//! its last scores for the next one (`shaders/mta/tile.wgsl`).

use super::layout::{K, Layouts, MEMORY, Params, Parts, Q, ROW_STATS, SCORES, Splits, TYPES, V, kernel, rows_before};
use super::{Config, Taps};
use crate::cores::attention::PRODUCTS;
use crate::cores::lanes::lanes;
use crate::cores::rows::{self, KEYS_STORED, ROWS};
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Named, Step};
use crate::gpu::shader::{Fragment, Kernel, Variant, fragment};
use crate::operator::qkv::STRIDES_SOURCE;

const TILE: Fragment = fragment!("mta/tile.wgsl");

/// Why every index of the kernels is within bounds.
const PROOF: &str = "cells of a tile and slices of its rows and keys are below what the consts that size the arrays were \
     chosen for; rows and keys outside the sequence repeat the outermost; loops end at consts, uniforms or the keys seen";

static ROWS_PASS: Kernel =
    kernel("mta_rows", &[STRIDES_SOURCE, TYPES, ROWS, SCORES, PRODUCTS, TILE, fragment!("mta/rows.wgsl")], PROOF);

static OUTPUT: Kernel = kernel(
    "mta_output",
    &[STRIDES_SOURCE, TYPES, ROWS, SCORES, PRODUCTS, TILE, ROW_STATS, fragment!("mta/output.wgsl")],
    PROOF,
);

/// Each invocation has so many rows by as many keys.
const EACH: usize = 4;
/// Invocations along the rows and along the keys of a tile: the first for long sequences, others if it does not fit or
/// if there are few rows.
const THREADS: [(usize, usize); 5] = [(16, 8), (12, 8), (10, 8), (8, 16), (4, 16)];
/// Registers of an invocation besides those of its outputs.
const REGISTERS: usize = 112;
/// Tiles per workgroup, if workgroups share the keys.
const SPLIT_TILES: usize = 4;
/// Most groups of four columns per invocation.
const MAX_OUT4: usize = 4;

/// The tile sizes of a pass.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    row_threads: usize,
    col_threads: usize,
    /// Rows that the convolutions reach above a block, and keys on either side.
    above: usize,
    lag: usize,
    /// Groups of four dimensions per slice.
    dim4: usize,
    /// Groups of four taps along the queries.
    taps4: usize,
    /// Vectors in front of the lines of a tile, for those kept of the tile before.
    new_at: usize,
    kept_each: usize,
    /// Groups of four columns per invocation, and workgroups that the columns are split over.
    out4: usize,
    col_splits: usize,
    /// Keys whose values are loaded at a time.
    value_keys: usize,
    /// Vectors of workgroup memory for a tile and for the kernels of the convolutions.
    space: usize,
    taps: usize,
    /// Rows of all workgroups together, some of which may be before the first query.
    rows: usize,
    before: usize,
}

impl Tiles {
    /// Tiles for these threads, kernels and columns; `None` if they do not fit in workgroup memory.
    fn of(
        (row_threads, col_threads): (usize, usize),
        c: &Config,
        [pre, post]: [Option<Taps>; 2],
        columns: usize,
    ) -> Option<Self> {
        let of = |taps: Option<Taps>| taps.unwrap_or(Taps::new(1, 1));
        let (pre, post) = (of(pre), of(post));
        let (rows, keys, line) = (EACH * row_threads, EACH * col_threads, row_threads + 1);
        let above = pre.queries + post.queries - 2;
        let room = MEMORY / 16;
        let taps4 = pre.queries.max(post.queries).div_ceil(4);
        let taps = (pre.keys + post.keys) * taps4;
        let kept = pre.keys.max(post.keys) - 1;
        // The same vectors hold one from every invocation.
        let new_at = (kept * line).max(row_threads * col_threads);
        // The last strip of the last line reads a few vectors more.
        let lines = new_at + keys * line + taps4 - 1;
        let slices = |dim4: usize| rows * dim4 + keys * (dim4 + 1);
        let values = |value_keys: usize| keys / 2 * line + value_keys * columns / 4;
        let fits = |vectors: usize| vectors + taps <= room;
        let dim4 = [8, 4, 2, 1].into_iter().find(|dim4| fits(slices(*dim4)) && (dim4 / 2) * 4 < c.qkv.dim_k)?;
        let value_keys = [32, 16, 8, 4, 2, 1].into_iter().find(|some| *some <= keys / 2 && fits(values(*some)))?;
        let space = lines.max(slices(dim4)).max(values(value_keys));
        (fits(space) && above < rows).then(|| Self {
            row_threads,
            col_threads,
            above,
            lag: pre.keys / 2 + post.keys / 2,
            dim4,
            taps4,
            new_at,
            kept_each: kept.div_ceil(col_threads).max(1),
            out4: columns / 4 / col_threads,
            col_splits: 1,
            value_keys,
            space,
            taps,
            rows: c.qkv.queries,
            before: 0,
        })
    }

    /// The tiles that take the least time: whose outputs fit in registers, and with the fewest threads over all tiles,
    /// where those of rows above blocks and those that only fill a subgroup count too. `width` is the number of columns
    /// that the pass needs.
    fn best(c: &Config, caps: &Caps, taps: [Option<Taps>; 2], before: usize, width: usize) -> Self {
        let rows = c.qkv.queries + before;
        let tiles = THREADS.iter().filter_map(|threads| {
            let group = 4 * threads.1;
            let col_splits = width.div_ceil(group * MAX_OUT4);
            let columns = width.div_ceil(col_splits).next_multiple_of(group);
            Some(Self { rows, before, col_splits, ..Self::of(*threads, c, taps, columns)? })
        });
        let time = |tiles: &Self| {
            let threads = (tiles.row_threads * tiles.col_threads).next_multiple_of(64);
            (
                tiles.registers() > caps.registers as usize,
                tiles.row_blocks() * tiles.col_splits * threads * 16 / tiles.col_threads,
            )
        };
        tiles.min_by_key(time).expect("a tile for any kernel fits")
    }

    /// The pass for maxima and sums.
    fn rows(c: &Config, caps: &Caps) -> Self {
        Self::best(c, caps, [c.kq_pre, None], rows_before(c), 1)
    }

    /// The pass for the output.
    fn output(c: &Config, caps: &Caps) -> Self {
        Self::best(c, caps, [c.kq_pre, c.kq_post], 0, c.qkv.dim_v)
    }

    fn registers(&self) -> usize {
        REGISTERS + 16 * self.out4
    }

    /// Raw rows of a block, and rows of its own.
    fn block_rows(&self) -> usize {
        EACH * self.row_threads
    }

    fn own_rows(&self) -> usize {
        self.block_rows() - self.above
    }

    fn keys(&self) -> usize {
        EACH * self.col_threads
    }

    fn row_blocks(&self) -> usize {
        self.rows.div_ceil(self.own_rows())
    }

    /// Consts of the prelude.
    fn consts(&self, [pre, post]: [Option<Taps>; 2]) -> Vec<(&'static str, u32)> {
        let queries = |taps: Option<Taps>| taps.map_or(1, |taps| taps.queries as u32);
        vec![
            ("ROW_THREADS", self.row_threads as u32),
            ("COL_THREADS", self.col_threads as u32),
            ("DIM4", self.dim4 as u32),
            ("PRE_QUERIES", queries(pre)),
            ("POST_QUERIES", queries(post)),
            ("TAPS4", self.taps4 as u32),
            ("NEW_AT", self.new_at as u32),
            ("KEPT_EACH", self.kept_each as u32),
            ("OUT4", self.out4 as u32),
            ("SPACE", self.space as u32),
            ("TAPS", self.taps as u32),
        ]
    }

    /// What the blocks and splits of one head compute and load.
    fn walk(&self, c: &Config, split_keys: usize) -> Walk {
        let (keys, queries) = (self.keys(), c.qkv.queries as isize);
        let mut walk = Walk::default();
        for block in 0..self.row_blocks() {
            let first = (block * self.own_rows()) as isize - self.before as isize;
            let end = (first + self.own_rows() as isize).min(queries);
            let seen = c.keys_seen(end - 1);
            let raw = (first - self.above as isize).max(-(c.rows_before() as isize))
                ..(first + (self.block_rows() - self.above) as isize).min(queries);
            for from in (0..seen).step_by(split_keys) {
                let to = (from + split_keys).min(seen);
                let start = from.saturating_sub(self.lag);
                let tiles = (to + self.lag - start).div_ceil(keys);
                walk.tiles += tiles as f64;
                walk.rows += (raw.len() * tiles) as f64;
                walk.keys += ((start + tiles * keys).min(c.qkv.keys).max(start) - start) as f64;
                walk.values += (to - from) as f64;
            }
        }
        walk
    }
}

/// Sums over the blocks and splits of one head: tiles, rows and keys that are loaded, all of them per tile, and values.
#[derive(Default)]
struct Walk {
    tiles: f64,
    rows: f64,
    keys: f64,
    values: f64,
}

/// The passes over the scores of heads that are not mixed.
pub(super) fn parts(layouts: &Layouts<'_>, caps: &Caps) -> Parts {
    let c = layouts.c;
    let (output, rows) = (Tiles::output(c, caps), c.post().then(|| Tiles::rows(c, caps)));
    let groups = c.qkv.batch * c.qkv.heads * output.row_blocks() * output.col_splits;
    // A split computes the keys on both sides that its convolutions reach as well, so that these are whole tiles.
    let splits = layouts.splits(groups, SPLIT_TILES * output.keys() - 2 * output.lag, caps);
    let passes = Passes { layouts, c, caps, output, rows, splits };
    Parts { variant: passes.describe(), workspace: layouts.workspace(splits), steps: passes.steps(), units: c.qkv }
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
    fn describe(&self) -> String {
        let passes = if self.rows.is_some() { "two passes" } else { "one pass" };
        let recompute = |tiles: &Tiles| (tiles.block_rows() * tiles.col_splits) as f64 / tiles.own_rows() as f64;
        let times = self.rows.as_ref().map_or(0.0, recompute) + recompute(&self.output);
        let (rows, keys) = (self.output.own_rows(), self.output.keys());
        let splits = self.splits.describe();
        format!("{passes}, {splits}tiles of {rows} queries by {keys} keys, scores computed {times:.1} times")
    }

    fn params(&self, tiles: &Tiles) -> Params {
        Params {
            row_blocks: tiles.row_blocks() as u32,
            col_splits: tiles.col_splits as u32,
            ..self.layouts.params(self.splits)
        }
    }

    fn steps(&self) -> Vec<Step> {
        let (c, s) = (self.c, &self.c.qkv);
        let heads = (s.batch * s.heads) as f64;
        let size = s.dtype.size() as f64;
        let mut steps = Vec::new();
        if let Some(tiles) = &self.rows {
            let mut cost = self.cost(tiles, [c.kq_pre, None]);
            cost.bytes_written = heads * (tiles.rows * self.splits.count) as f64 * 8.0;
            let params = Params { post_queries: 1, post_keys: 1, ..self.params(tiles) };
            steps.push(self.step(&ROWS_PASS, tiles, &params, [c.kq_pre, None], (&[rows::Q, rows::K], &[], &[]), cost));
        }
        let tiles = &self.output;
        let taps = [c.kq_pre, c.kq_post];
        let walk = tiles.walk(c, self.splits.keys);
        let mut cost = self.cost(tiles, taps);
        let columns = (4 * tiles.col_threads * tiles.out4 * tiles.col_splits) as f64;
        cost.flops += heads * walk.tiles * (tiles.block_rows() * tiles.keys()) as f64 * 2.0 * columns;
        cost.bytes_read += heads * walk.values * s.dim_v as f64 * size + self.stats_read();
        let stores = self.layouts.stores(self.splits);
        cost.bytes_written = stores.bytes;
        let wanted = (stores.wanted, stores.fragments, &[V, stores.operand][..]);
        let mut step = self.step(&OUTPUT, tiles, &self.params(tiles), taps, wanted, cost);
        for spec in std::iter::once(&mut step.spec).chain(&mut step.narrow) {
            spec.consts.push(("VALUE_KEYS", tiles.value_keys as u32));
            spec.overrides.push(("KQ_POST", c.kq_post.is_some().into()));
        }
        steps.push(step);
        steps.extend(self.layouts.merge(self.splits, self.caps));
        steps
    }

    /// Bytes of maxima and sums that the pass for the output reads: every invocation reads those of its rows.
    fn stats_read(&self) -> f64 {
        let (c, tiles) = (self.c, &self.output);
        let Some(post) = c.kq_post else { return 0.0 };
        let rows: usize = (0..tiles.row_blocks())
            .map(|block| {
                let first = (block * tiles.own_rows()) as isize - (post.queries as isize - 1);
                let from = first.max(-(rows_before(c) as isize));
                ((first + tiles.block_rows() as isize).min(c.qkv.queries as isize) - from) as usize
            })
            .sum();
        let splits = self.splits.count;
        (c.qkv.batch * c.qkv.heads * rows * tiles.col_threads * tiles.col_splits * splits * splits) as f64 * 8.0
    }

    /// A step of one of the two kernels.
    fn step(
        &self,
        kernel: &'static Kernel,
        tiles: &Tiles,
        params: &Params,
        taps: [Option<Taps>; 2],
        (wanted, fragments, operands): (&[usize], &[Fragment], &[Named]),
        cost: Cost,
    ) -> Step {
        let (c, s) = (self.c, &self.c.qkv);
        let overrides = vec![
            ("CAUSAL", c.causal.into()),
            ("KQ_PRE", c.kq_pre.is_some().into()),
            ("CARRY", (c.rows_before() > 0).into()),
        ];
        let spec = Variant::new(s.dtype, tiles.consts(taps), overrides).with(&[lanes(tiles.col_threads, self.caps)]);
        let (spec, narrow) = rows::rows(s, &spec, KEYS_STORED, wanted, [fragments; 2]);
        let [tail, weights] = ["q_tail", "weights"].map(|name| self.layouts.slot(name));
        let operands = [operands, &[Q, K, tail, weights, self.layouts.stats()]].concat();
        let groups = s.batch * s.heads * tiles.row_blocks() * self.splits.count * tiles.col_splits;
        Step::new(kernel, spec, params, &operands, groups as u64, cost).or_narrow(narrow)
    }

    /// Loads and computations of scores, including those of rows and keys that only pad a tile.
    fn cost(&self, tiles: &Tiles, taps: [Option<Taps>; 2]) -> Cost {
        let s = &self.c.qkv;
        let walk = tiles.walk(self.c, self.splits.keys);
        let heads = (s.batch * s.heads * tiles.col_splits) as f64;
        let dims = s.dim_k.next_multiple_of(4 * tiles.dim4);
        let taps: usize = taps.iter().flatten().map(|taps| taps.queries * taps.keys).sum();
        let cells = heads * walk.tiles * (tiles.block_rows() * tiles.keys()) as f64;
        let groups = heads * (tiles.row_blocks() * self.splits.count) as f64;
        let vectors = heads * (walk.rows + walk.keys) * (s.dim_k * s.dtype.size()) as f64;
        Cost {
            flops: cells * 2.0 * (dims + taps) as f64,
            exps: cells,
            bytes_read: vectors + groups * taps as f64 * 4.0,
            bytes_written: 0.0,
        }
    }
}
