//! The tiled softmax core, host side: tiles, uniforms, bytes and flops of `shaders/common/attend.wgsl`. Pure.
//!
//! A workgroup has 64 rows, queries of all heads that share a key head where there is room, and walks the keys they see in
//! tiles of 32 with a running maximum and sum, so that no score reaches memory. Keys and values are read once by every
//! block of rows, queries once for every tile of keys.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::Qkv;
use super::qkv::Strides;
use crate::gpu::grid::Grid;
use crate::gpu::program::Cost;
use crate::gpu::source::{Field, Source, fields, source};

/// Rows of a workgroup; keys of a tile.
const ROWS: usize = 64;
const KEYS: usize = 32;

/// Twin of `struct Params` in `shaders/common/attend_types.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Params {
    grid: Grid,
    queries: u32,
    keys: u32,
    heads: u32,
    kv_heads: u32,
    dim_k: u32,
    dim_v: u32,
    window: u32,
    row_queries: u32,
    block_heads: u32,
    head_splits: u32,
    pub(crate) row_blocks: u32,
    pub(crate) col_splits: u32,
    pub(crate) splits: u32,
    pub(crate) first_key: u32,
    scale: f32,
    _pad: u32,
    q: Strides,
    pub(crate) k: Strides,
    pub(crate) v: Strides,
    o: Strides,
}

/// Fields of [`Params`], for its kernels.
pub(crate) const FIELDS: &[Field] = fields!(
    Params: grid, queries, keys, heads, kv_heads, dim_k, dim_v, window, row_queries, block_heads, head_splits, row_blocks,
    col_splits, splits, first_key, scale, _pad, q, k, v, o
);

/// Where the uniform has the strides of q, k, v and o.
pub(crate) const STRIDES: [usize; 4] =
    [offset_of!(Params, q), offset_of!(Params, k), offset_of!(Params, v), offset_of!(Params, o)];

/// `Params`, and which keys a query sees.
pub(crate) const TYPES: Source = source!("common/attend_types.wgsl");
/// Rows of q, k and v, four elements at a time.
pub(crate) const LOADS: Source = source!("common/attend_loads.wgsl");
/// The core itself.
pub(crate) const CORE: Source = source!("common/attend.wgsl");
/// Keys and values stored as the queries are.
pub(crate) const KEYS_STORED: Source = source!("common/keys_stored.wgsl");
/// Keys and values stored as f32.
pub(crate) const KEYS_F32: Source = source!("common/keys_f32.wgsl");

/// Why indices of the core stay in bounds.
pub(crate) const PROOF: &str =
    "indices are below products of the consts that size the arrays; loops end at consts, uniforms or the keys seen";

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask {
    pub(crate) causal: bool,
    /// Keys at most, the last of them its own; only when causal.
    pub(crate) window: Option<usize>,
}

impl Mask {
    /// Keys that query `n` of `s` sees: aligned at the end, as in a cache.
    pub(crate) fn keys(&self, s: &Qkv, n: usize) -> std::ops::Range<usize> {
        if !self.causal {
            return 0..s.keys;
        }
        let end = (n + 1 + s.keys).saturating_sub(s.queries);
        end.saturating_sub(self.window.unwrap_or(end))..end
    }

    /// Queries that see key `j`.
    #[cfg(feature = "cpu")]
    pub(crate) fn queries(&self, s: &Qkv, j: usize) -> std::ops::Range<usize> {
        if !self.causal {
            return 0..s.queries;
        }
        let first = (j + s.queries).saturating_sub(s.keys);
        let end =
            self.window.map_or(s.queries, |w| (j + s.queries).saturating_add(w).saturating_sub(s.keys).min(s.queries));
        first..end.max(first)
    }

    /// Pairs of a query and a key it sees, of one head.
    pub(crate) fn pairs(&self, s: &Qkv) -> f64 {
        if !self.causal {
            return s.queries as f64 * s.keys as f64;
        }
        // Ends grow by one from query to query up to M; the first queries may see nothing, and none more than a window.
        let seen = s.queries.min(s.keys);
        let (last, first) = (s.keys as f64, (s.keys - seen + 1) as f64);
        let window = self.window.map_or(last, |w| w.min(s.keys) as f64);
        let growing = (window - first).max(0.0).min(seen as f64);
        growing * (first + first + growing - 1.0) / 2.0 + (seen as f64 - growing) * window.min(last)
    }
}

/// How the core is laid out for some shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// Invocations along keys, and along columns of the values.
    col_threads: usize,
    /// Groups of four columns of an invocation.
    out4: usize,
    /// Groups of four dimensions of a chunk.
    dim4: usize,
    /// Workgroups that share the columns.
    pub(crate) col_splits: usize,
    /// Query heads of a workgroup, and queries of each.
    block_heads: usize,
    row_queries: usize,
    /// Workgroups that share the query heads of a key head.
    head_splits: usize,
    /// Workgroups along the queries.
    row_blocks: usize,
}

impl Tiles {
    pub(crate) fn new(s: &Qkv) -> Self {
        let col_splits = s.dim_v.div_ceil(256);
        let (col_threads, out4) = match s.dim_v.div_ceil(col_splits) {
            ..=16 => (4, 1),
            17..=32 => (8, 1),
            33..=64 => (8, 2),
            65..=128 => (16, 2),
            _ => (16, 4),
        };
        let dim4 = s.dim_k.div_ceil(4).next_power_of_two().min(8);
        let head_splits = s.group().div_ceil((ROWS / s.queries.min(4)).min(s.group()));
        let block_heads = s.group().div_ceil(head_splits);
        let row_queries = (ROWS / block_heads).min(s.queries);
        let row_blocks = s.queries.div_ceil(row_queries);
        Self { col_threads, out4, dim4, col_splits, block_heads, row_queries, head_splits, row_blocks }
    }

    pub(crate) fn consts(&self) -> Vec<(&'static str, u32)> {
        let width = self.col_threads * self.out4;
        vec![
            ("COL_THREADS", self.col_threads as u32),
            ("KEYS_EACH", (KEYS / self.col_threads) as u32),
            ("OUT4", self.out4 as u32),
            ("DIM4", self.dim4 as u32),
            ("VALUE_KEYS", (256 / width).min(KEYS) as u32),
        ]
    }

    pub(crate) fn groups(&self, s: &Qkv) -> u64 {
        (self.col_splits * self.row_blocks * self.head_splits) as u64 * s.kv_units() as u64
    }

    pub(crate) fn params(&self, s: &Qkv, mask: Mask, scale: f32) -> Params {
        let [q, k, v, o] = s.strides();
        Params {
            queries: s.queries as u32,
            keys: s.keys as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            dim_k: s.dim_k as u32,
            dim_v: s.dim_v as u32,
            // A window of all keys is none.
            window: mask.window.filter(|w| *w < s.keys).unwrap_or(0) as u32,
            row_queries: self.row_queries as u32,
            block_heads: self.block_heads as u32,
            head_splits: self.head_splits as u32,
            row_blocks: self.row_blocks as u32,
            col_splits: self.col_splits as u32,
            scale,
            q,
            k,
            v,
            o,
            ..Params::default()
        }
    }

    /// What the core reads, writes and computes. `key_size` is the storage of keys and values in bytes.
    pub(crate) fn cost(&self, s: &Qkv, mask: Mask, key_size: usize) -> Cost {
        let (mut seen, mut visits, mut tiles) = (0.0, 0.0, 0.0);
        for block in 0..self.row_blocks {
            let first = block * self.row_queries;
            let queries = self.row_queries.min(s.queries - first);
            let keys = mask.keys(s, first).start..mask.keys(s, first + queries - 1).end;
            seen += keys.len() as f64;
            tiles += keys.len().div_ceil(KEYS) as f64;
            visits += (queries * keys.len().div_ceil(KEYS)) as f64;
        }
        let (d, e, size) = (s.dim_k as f64, s.dim_v as f64, s.dtype.size() as f64);
        let units = s.kv_units() as f64;
        // Columns are shared, so that values are read once for all column splits, keys and queries once for each.
        let splits = self.col_splits as f64;
        let rows = units * s.group() as f64 * visits;
        // With the rows, dimensions and columns that only fill a tile: they take their time too.
        let dims = s.dim_k.next_multiple_of(4 * self.dim4) + 4 * self.col_threads * self.out4;
        let products = units * self.head_splits as f64 * splits * tiles * (ROWS * KEYS) as f64;
        Cost {
            flops: products * 2.0 * dims as f64,
            exps: products,
            bytes_read: rows * d * splits * size
                + units * self.head_splits as f64 * seen * (d * splits + e) * key_size as f64,
            bytes_written: s.elements()[3] * size,
        }
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        format!("tiles of {} queries x {} heads by {KEYS} keys", self.row_queries, self.block_heads)
    }
}

/// Essential work: what of each input is seen read once, each output written once, and only pairs of a query and a key
/// it sees.
pub(crate) fn essential(s: &Qkv, mask: Mask) -> Cost {
    let [q, k, v, o] = s.elements();
    let size = s.dtype.size() as f64;
    let pairs = (s.batch * s.heads) as f64 * mask.pairs(s);
    let keys = (s.keys - mask.keys(s, 0).start) as f64 / s.keys as f64;
    let queries = if mask.causal { s.queries.min(s.keys) as f64 / s.queries as f64 } else { 1.0 };
    Cost {
        flops: 2.0 * pairs * (s.dim_k + s.dim_v) as f64,
        exps: pairs,
        bytes_read: (q * queries + (k + v) * keys) * size,
        bytes_written: o * size,
    }
}
