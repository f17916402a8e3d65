//! The tiled form of the core: tile sizes, uniform, bytes and flops.

use super::{Attention, Mask, Params, Parts};
use crate::cores::lanes::lanes;
use crate::cores::rows::{K, KEYS_STORED, O, Q, V, rows};
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Step};
use crate::gpu::shader::{Fragment, Variant};
use crate::operator::qkv::Qkv;

/// Rows per workgroup.
const ROWS: usize = 64;
/// Keys of a tile whose weights are in workgroup memory at a time (`PART_KEYS` in the shader), and vectors of four floats that
/// each of its two arrays holds (`SPACE`): 16 KiB together.
const PART_KEYS: usize = 32;
const SPACE: usize = 512;
/// Registers of an invocation that 64 products of queries and keys, their operands and eight rows of outputs take.
const WIDE_REGISTERS: u32 = 192;

/// The tile sizes of the core for given shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// Rows per invocation.
    rows_each: usize,
    /// Invocations along the keys of a tile, and along the columns of the values.
    col_threads: usize,
    /// Keys per invocation.
    keys_each: usize,
    /// Groups of four columns per invocation.
    out4: usize,
    /// Groups of four dimensions per slice.
    dim4: usize,
    /// Workgroups that the columns are split over.
    col_splits: usize,
    /// Query heads per workgroup, and queries of each of them.
    block_heads: usize,
    row_queries: usize,
    /// Workgroups that the query heads of a key head are split over.
    head_splits: usize,
    /// Workgroups along the queries.
    row_blocks: usize,
}

impl Tiles {
    /// The tiles for these shapes on this device. More products per invocation need fewer loads each: 8 by 4 where the
    /// registers suffice, else 4 by 4.
    pub(crate) fn new(s: &Qkv, caps: &Caps) -> Self {
        let col_splits = s.dim_v.div_ceil(256);
        let wide = caps.registers >= WIDE_REGISTERS;
        let (rows_each, col_threads, keys_each, out4) = match s.dim_v.div_ceil(col_splits) {
            ..=16 => (4, 4, 8, 1),
            17..=32 => (4, 8, 4, 1),
            33..=64 if wide => (8, 16, 4, 1),
            33..=64 => (4, 8, 4, 2),
            65..=128 => (4, 16, 4, 2),
            _ => (4, 16, 4, 4),
        };
        // Keys are padded by one group each. Fewer than four groups would leave invocations without one to load.
        let most = if col_threads * keys_each * 9 + 2 * ROWS <= SPACE { 8 } else { 4 };
        let dim4 = s.dim_k.div_ceil(4).next_power_of_two().clamp(4, most);
        let head_splits = s.group().div_ceil((ROWS / s.queries.min(4)).min(s.group()));
        let block_heads = s.group().div_ceil(head_splits);
        let row_queries = (ROWS / block_heads).min(s.queries);
        let row_blocks = s.queries.div_ceil(row_queries);
        Self {
            rows_each,
            col_threads,
            keys_each,
            out4,
            dim4,
            col_splits,
            block_heads,
            row_queries,
            head_splits,
            row_blocks,
        }
    }

    fn keys(&self) -> usize {
        self.col_threads * self.keys_each
    }

    pub(crate) fn invocations(&self) -> usize {
        ROWS / self.rows_each * self.col_threads
    }

    /// The variant of a kernel with these tiles. `keys` is the storage type of keys and values.
    pub(crate) fn variant(&self, s: &Qkv, caps: &Caps, keys: Fragment, spec: Variant) -> (Variant, Option<Variant>) {
        let width = self.col_threads * self.out4;
        let mut spec = spec.with(&[lanes(self.col_threads, caps)]);
        spec.consts.extend([
            ("ROW_THREADS", (ROWS / self.rows_each) as u32),
            ("ROWS_EACH", self.rows_each as u32),
            ("COL_THREADS", self.col_threads as u32),
            ("KEYS_EACH", self.keys_each as u32),
            ("OUT4", self.out4 as u32),
            ("DIM4", self.dim4 as u32),
            ("VALUE_KEYS", (SPACE / width).min(PART_KEYS) as u32),
            ("ODD_DIMS", (!s.dim_k.is_multiple_of(4 * self.dim4)).into()),
        ]);
        rows(s, &spec, keys, &[Q, K, V, O], [&[], &[]])
    }

    pub(crate) fn groups(&self, s: &Qkv) -> u64 {
        (self.col_splits * self.row_blocks * self.head_splits) as u64 * s.kv_units() as u64
    }

    /// The uniform. `score` is the parameter of the score, for example the scale of softmax.
    pub(crate) fn params(&self, s: &Qkv, mask: Mask, score: f32) -> Params {
        let [q, k, v, o] = s.strides();
        Params {
            queries: s.queries as u32,
            keys: s.keys as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            dim_k: s.dim_k as u32,
            dim_v: s.dim_v as u32,
            // A window that covers all keys is the same as no window.
            window: mask.window.filter(|w| *w < s.keys).unwrap_or(0) as u32,
            row_queries: self.row_queries as u32,
            block_heads: self.block_heads as u32,
            head_splits: self.head_splits as u32,
            row_blocks: self.row_blocks as u32,
            col_splits: self.col_splits as u32,
            score,
            q,
            k,
            v,
            o,
            ..Params::default()
        }
    }

    /// Work of the tiled form. `key_size` is the number of bytes per element of keys and values.
    pub(crate) fn cost(&self, s: &Qkv, mask: Mask, key_size: usize) -> Cost {
        let (mut seen, mut visits, mut tiles) = (0.0, 0.0, 0.0);
        for (queries, keys) in self.blocks(s, mask) {
            seen += keys as f64;
            tiles += keys.div_ceil(self.keys()) as f64;
            visits += (queries * keys.div_ceil(self.keys())) as f64;
        }
        let (d, e, size) = (s.dim_k as f64, s.dim_v as f64, s.dtype.size() as f64);
        let units = s.kv_units() as f64;
        // Values are read once by all column splits together, keys and queries once by each of them.
        let splits = self.col_splits as f64;
        let rows = units * s.group() as f64 * visits;
        // Rows, dimensions and columns that only pad a tile are counted, because they take time too.
        let dims = s.dim_k.next_multiple_of(4 * self.dim4) + 4 * self.col_threads * self.out4;
        let products = units * self.head_splits as f64 * splits * tiles * (ROWS * self.keys()) as f64;
        Cost {
            flops: products * 2.0 * dims as f64,
            exps: products,
            bytes_read: rows * d * splits * size
                + units * self.head_splits as f64 * seen * (d * splits + e) * key_size as f64,
            bytes_written: s.elements()[3] * size,
        }
    }

    /// Queries of each block of a group of heads, and the number of keys that the block sees.
    pub(super) fn blocks(&self, s: &Qkv, mask: Mask) -> impl Iterator<Item = (usize, usize)> {
        (0..self.row_blocks).map(move |block| {
            let first = block * self.row_queries;
            let queries = self.row_queries.min(s.queries - first);
            let keys = mask.keys(s, first).start..mask.keys(s, first + queries - 1).end;
            (queries, keys.len())
        })
    }

    /// Number of groups of heads, over the batch.
    pub(super) fn head_groups(&self, s: &Qkv) -> usize {
        s.kv_units() * self.head_splits
    }

    /// Describes the tiles, for people.
    pub(crate) fn describe(&self) -> String {
        self.rows_by(self.keys())
    }

    /// Describes tiles of the same rows by so many keys.
    pub(super) fn rows_by(&self, keys: usize) -> String {
        format!("tiles of {} queries x {} heads by {keys} keys", self.row_queries, self.block_heads)
    }
}

impl Attention<'_> {
    pub(super) fn tiled(&self, caps: &Caps) -> Parts {
        let (s, tiles) = (self.qkv, Tiles::new(self.qkv, caps));
        let params = tiles.params(s, self.mask, self.score);
        let cost = tiles.cost(s, self.mask, s.dtype.size());
        let spec = self.weighing(self.fragments[0]).with(&self.extras.of_outputs());
        let spec = tiles.variant(s, caps, KEYS_STORED, spec);
        let mut step = Step { groups: tiles.groups(s), ..self.step(&self.kernels[0], spec, params, cost) };
        // Every column split visits every pair, and each of its invocations reads the sinks of its rows.
        let rows = (s.batch * s.heads * s.queries) as f64;
        let sinks = if self.extras.sink { rows * (4 * tiles.col_threads) as f64 } else { 0.0 };
        step.cost.bytes_read += tiles.col_splits as f64 * (self.extras.pair_bytes(s, self.mask) + sinks);
        step.cost.bytes_written += if self.extras.lse { 4.0 * rows } else { 0.0 };
        // The first and the last row are asked for by each invocation, others once for each tile that needs a mask.
        let asked = 2 + tiles.rows_each * s.keys.div_ceil(tiles.keys());
        (tiles.describe(), Vec::new(), vec![self.weighed(step, tiles.invocations(), asked)])
    }
}
