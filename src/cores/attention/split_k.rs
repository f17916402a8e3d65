//! The split-K form of the core, for few queries and many keys: when it is chosen, its two dispatches, bytes and flops.

use super::{Attention, Params, Parts, Tiles};
use crate::cores::lanes::{lanes, reducing};
use crate::cores::rows::{K, KEYS_STORED, O, Q, V, rows as rows_of};
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Scratch, Step};
use crate::gpu::shader::Variant;
use crate::operator::pairs::Align;

/// Invocations per workgroup of the two dispatches. Those of the first are the keys of a tile too.
const TILE_KEYS: usize = 128;
const MERGE_INVOCATIONS: usize = 64;
/// Rows per workgroup at most.
const MOST_ROWS: usize = 8;
/// Splits per row at most. The second dispatch holds a factor of each.
pub(crate) const MOST_SPLITS: usize = 1024;
/// Groups of four elements of its queries that a workgroup holds at most, and of a key or value that are loaded at once.
const QUERY_SPACE: usize = 256;
const BATCH: usize = 8;

/// How rows, columns and keys are shared among workgroups.
struct Splits {
    /// Rows per key head, and per workgroup.
    rows: usize,
    split_rows: usize,
    row_blocks: usize,
    /// Groups of four columns per workgroup.
    columns4: usize,
    /// Groups of four dimensions of a query that a workgroup holds.
    dim4: usize,
    /// Workgroups that share the keys of a block of rows.
    splits: usize,
}

impl Attention<'_> {
    /// Whether to use the split-K form: if a key head has so few rows that a block of the tiled form would be mostly
    /// empty, or if the blocks alone would leave the device idle and each has a long cache to process. The partial
    /// outputs must also fit into one binding.
    pub(super) fn splits(&self, caps: &Caps) -> bool {
        let s = self.qkv;
        let rows = s.queries.saturating_mul(s.group());
        let idle = 4 * Tiles::new(s, caps).groups(s) <= caps.full_groups;
        let few = rows <= MOST_ROWS || (idle && rows <= 256 && self.most_seen() >= 16 * rows);
        // A device has eight bindings. The two dispatches of this form have fewer each.
        let must = self.extras.bindings() > 8;
        must || few && self.partials(caps).saturating_mul(4) <= caps.largest_binding().min(4 * u64::from(u32::MAX))
    }

    /// Number of keys from the first that any query sees to the last, at most.
    fn most_seen(&self) -> usize {
        let s = self.qkv;
        match (self.extras.lengths && self.mask.align == Align::End, self.mask.window) {
            (false, _) => self.mask.span(s).len().max(1),
            // Where the last key is, a run finds out.
            (true, Some(window)) if self.mask.causal => window.saturating_add(s.queries - 1).min(s.keys),
            (true, _) => s.keys,
        }
    }

    /// The splits of these shapes: as many as fill the device, each at least a tile.
    fn sizes(&self, caps: &Caps) -> Splits {
        let s = self.qkv;
        let rows = s.queries * s.group();
        let split_rows = rows.next_power_of_two().min(MOST_ROWS);
        let row_blocks = rows.div_ceil(split_rows);
        let columns4 = s.dim_v.div_ceil(4).next_power_of_two().min(TILE_KEYS);
        let dim4 = s.dim_k.div_ceil(4).next_power_of_two().min(QUERY_SPACE / split_rows);
        let others = (s.kv_units() * row_blocks * s.dim_v.div_ceil(4 * columns4)) as u64;
        let wanted = caps.full_groups.div_ceil(others) as usize;
        let splits = self.most_seen().div_ceil(TILE_KEYS).min(wanted).min(MOST_SPLITS);
        Splits { rows, split_rows, row_blocks, columns4, dim4, splits }
    }

    /// Elements of the partial outputs: per row and split, E outputs in groups of four, and a group with maximum and sum.
    fn partials(&self, caps: &Caps) -> u64 {
        let s = self.qkv;
        let rows = (s.batch * s.heads) as u64 * s.queries as u64;
        rows.saturating_mul(self.sizes(caps).splits as u64).saturating_mul(s.dim_v.next_multiple_of(4) as u64 + 4)
    }

    /// Keys that each block of rows sees.
    fn seen(&self, sizes: &Splits) -> impl Iterator<Item = usize> {
        let s = *self.qkv;
        let mask = self.mask;
        let (rows, each) = (sizes.rows, sizes.split_rows);
        (0..sizes.row_blocks).map(move |block| {
            let (first, last) = (block * each, ((block + 1) * each).min(rows) - 1);
            let one_head = first / s.queries == last / s.queries;
            let (from, to) = if one_head { (first % s.queries, last % s.queries) } else { (0, s.queries - 1) };
            mask.keys(&s, to).end.saturating_sub(mask.keys(&s, from).start)
        })
    }

    pub(super) fn split(&self, caps: &Caps) -> Parts {
        let s = self.qkv;
        let sizes = self.sizes(caps);
        let Splits { rows, split_rows, row_blocks, columns4, dim4, splits } = sizes;
        let col_splits = s.dim_v.div_ceil(4 * columns4);
        let elements = self.partials(caps);
        let params = Params {
            row_blocks: row_blocks as u32,
            col_splits: col_splits as u32,
            splits: splits as u32,
            ..Tiles::new(s, caps).params(s, self.mask, self.score)
        };
        let (units, size) = (s.kv_units() as f64, s.dtype.size() as f64);
        let (d, e, columns) = (s.dim_k as f64, s.dim_v as f64, col_splits as f64);
        // Per block of rows: keys that it sees, tiles of them, and loads of its queries by all its workgroups.
        let (mut seen, mut tiles, mut visits) = (0.0, 0.0, 0.0);
        for (block, keys) in self.seen(&sizes).enumerate() {
            let own = keys.div_ceil(TILE_KEYS);
            let loads = if s.dim_k <= 4 * dim4 { own.div_ceil(own.div_ceil(splits).max(1)) } else { own };
            seen += keys as f64;
            tiles += own as f64;
            visits += (loads * split_rows.min(rows - block * split_rows)) as f64;
        }
        let pairs = units * columns * tiles * (split_rows * TILE_KEYS) as f64;
        let own = Cost {
            flops: pairs * 2.0 * (d + (4 * columns4) as f64),
            exps: pairs,
            bytes_read: units * (seen * (d * columns + e) + visits * d * columns) * size
                + columns * self.extras.pair_bytes(s, self.mask),
            bytes_written: elements as f64 * 4.0,
        };
        let mut spec = reducing(self.weighing(self.fragments[1]), TILE_KEYS, caps).with(&[lanes(columns4, caps)]);
        spec.consts.extend([
            ("SPLIT_ROWS", split_rows as u32),
            ("COLUMNS4", columns4 as u32),
            ("DIM4", dim4 as u32),
            ("BATCH", dim4.min(BATCH) as u32),
            ("VALUE_BATCH", columns4.min(BATCH) as u32),
        ]);
        let spec = rows_of(s, &spec, KEYS_STORED, &[Q, K, V], [&[], &[]]);
        let own = Step {
            groups: (s.kv_units() * row_blocks * col_splits * splits) as u64,
            ..self.step(&self.kernels[1], spec, params, own)
        };
        let variant = format!("{splits} splits of the keys, tiles of {TILE_KEYS} by {split_rows} rows");
        let workspace = vec![Scratch { name: "partial outputs", bytes: elements * 4 }];
        (variant, workspace, vec![self.weighed(own, TILE_KEYS, 2 + split_rows), self.merge(splits, caps)])
    }

    /// The second dispatch, for any kernel that stores, per row and split in `partials`, E sums in groups of four, and
    /// a group with the maximum that they are relative to, in units of log 2, and the sum of weights.
    pub(crate) fn merge(&self, splits: usize, caps: &Caps) -> Step {
        let s = self.qkv;
        let columns4 = s.dim_v.div_ceil(4).next_power_of_two().min(MERGE_INVOCATIONS);
        let blocks = s.dim_v.div_ceil(4 * columns4);
        let rows = s.batch * s.heads * s.queries;
        let partials = (rows * splits) as f64;
        let cost = Cost {
            flops: partials * s.dim_v as f64 * 2.0,
            exps: partials * blocks as f64,
            // Every block of columns reads the maxima twice and the sums once.
            bytes_read: partials * (s.dim_v.next_multiple_of(4) + 3 * blocks) as f64 * 4.0
                + if self.extras.sink { (rows * blocks * columns4) as f64 * 4.0 } else { 0.0 },
            bytes_written: (rows * s.dim_v * s.dtype.size()) as f64
                + if self.extras.lse { rows as f64 * 4.0 } else { 0.0 },
        };
        let consts = vec![("COLUMNS4", columns4 as u32), ("MOST_SPLITS", MOST_SPLITS as u32)];
        let spec = reducing(Variant::new(s.dtype, consts, vec![]), MERGE_INVOCATIONS, caps);
        let spec = rows_of(s, &spec.with(&self.extras.of_outputs()), KEYS_STORED, &[O], [&[], &[]]);
        let params = Tiles::new(s, caps).params(s, self.mask, self.score);
        let params = Params { col_splits: blocks as u32, splits: splits as u32, ..params };
        Step { groups: (rows * blocks) as u64, ..self.step(&self.kernels[2], spec, params, cost) }
    }
}
