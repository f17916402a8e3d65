//! The tiled attention core, host side: tiles, uniforms, bytes and flops of `shaders/common/attend*.wgsl`. Pure.
//!
//! A workgroup has 64 rows, queries of all heads that share a key head where there is room, and walks the keys they see in
//! tiles of 32 with a running maximum and sum, so that no score reaches memory. Keys and values are read once by every
//! block of rows, queries once for every tile of keys.
//!
//! An operator that is the core over q, k and v as they are ([`Attention`]) has a second form. Eight rows a key head or
//! fewer, or more that leave the machine idle before a long cache: keys are split over workgroups of 128, each of which
//! leaves a maximum, a sum and E partial outputs a row, put together in their order by a second dispatch; keys and values
//! are read once for every eight rows.
//!
//! What operators differ in is the score of a query and a key, a fragment of theirs that is given their product and, if
//! it takes them, their sums of squares; and whether weights are exponentials of scores or the scores themselves.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::Qkv;
use super::qkv::{Strides, check_lengths};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices};
use crate::gpu::source::{Bind, COUNT_OFF, Field, Kernel, Source, Spec, fields, source};

/// Rows of a workgroup; keys of a tile.
const ROWS: usize = 64;
const KEYS: usize = 32;
/// Keys of a workgroup where they are split.
const SPLIT_KEYS: usize = 128;
/// Columns of a workgroup that puts splits together.
const MERGE_COLUMNS: usize = 64;

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
    row_blocks: u32,
    col_splits: u32,
    splits: u32,
    first_key: u32,
    score: f32,
    norm_eps: f32,
    q: Strides,
    pub(crate) k: Strides,
    pub(crate) v: Strides,
    o: Strides,
}

const FIELDS: &[Field] = fields!(
    Params: grid, queries, keys, heads, kv_heads, dim_k, dim_v, window, row_queries, block_heads, head_splits, row_blocks,
    col_splits, splits, first_key, score, norm_eps, q, k, v, o
);

/// Where the uniform has the strides of q, k, v and o, which are slots 0 to 3.
pub(crate) const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// `Params`, and which keys a query sees.
pub(crate) const TYPES: Source = source!("common/attend_types.wgsl");
/// Rows of q, k and v, four elements at a time.
pub(crate) const LOADS: Source = source!("common/attend_loads.wgsl");
/// The score of softmax: the product, scaled.
pub(crate) const SCALED: Source = source!("common/attend_scaled.wgsl");
/// Sums of squares for a score that takes them, and for one that does not.
pub(crate) const SQUARES: Source = source!("common/attend_squares.wgsl");
pub(crate) const NO_SQUARES: Source = source!("common/attend_no_squares.wgsl");
/// The core itself.
pub(crate) const CORE: Source = source!("common/attend.wgsl");
/// Its form for few queries: keys split over workgroups, and the splits put together.
pub(crate) const SPLIT: Source = source!("common/attend_split.wgsl");
pub(crate) const MERGE: Source = source!("common/attend_merge.wgsl");
/// Keys and values stored as the queries are.
const KEYS_STORED: Source = source!("common/keys_stored.wgsl");
/// Keys and values stored as f32.
pub(crate) const KEYS_F32: Source = source!("common/keys_f32.wgsl");

/// Why indices of the core stay in bounds.
pub(crate) const PROOF: &str =
    "indices are below products of the consts that size the arrays; loops end at consts, uniforms or the keys seen";

/// A kernel with [`Params`].
const fn kernel(
    name: &'static str,
    sources: &'static [Source],
    bindings: &'static [(&'static str, Bind)],
    bounds_proof: Option<&'static str>,
) -> Kernel {
    Kernel { name, sources, bindings, params: FIELDS, params_size: size_of::<Params>(), bounds_proof }
}

/// A kernel that is the core.
pub(crate) const fn tiled_kernel(name: &'static str, sources: &'static [Source], proof: &'static str) -> Kernel {
    let bindings = &[("q", Bind::Read), ("k", Bind::Read), ("v", Bind::Read), ("o", Bind::Write)];
    kernel(name, sources, bindings, Some(proof))
}

/// A kernel of the form for few queries: the one that splits keys.
pub(crate) const fn split_kernel(name: &'static str, sources: &'static [Source]) -> Kernel {
    let bindings = &[("q", Bind::Read), ("k", Bind::Read), ("v", Bind::Read), ("partials", Bind::Write)];
    kernel(name, sources, bindings, None)
}

/// A kernel of the form for few queries: the one that puts splits together.
pub(crate) const fn merge_kernel(name: &'static str, sources: &'static [Source]) -> Kernel {
    kernel(name, sources, &[("partials", Bind::Read), ("o", Bind::Write)], None)
}

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
    col_splits: usize,
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

    /// `score` is what the score takes beside the pair.
    pub(crate) fn params(&self, s: &Qkv, mask: Mask, score: f32) -> Params {
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
            score,
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

/// An operator that is the core over q, k and v as they are: slots 0 to 3 of [`Qkv::slots`].
pub(crate) struct Attention<'a> {
    pub(crate) op: &'static str,
    pub(crate) qkv: &'a Qkv,
    pub(crate) mask: Mask,
    /// What the score takes beside the pair.
    pub(crate) score: f32,
    /// Whether weights are exponentials of scores, or the scores themselves.
    pub(crate) exponential: bool,
    /// Added to the sum of weights.
    pub(crate) norm_eps: f32,
    /// The tiled form; the two of few queries.
    pub(crate) kernels: [&'static Kernel; 3],
    /// Overrides of the operator's score.
    pub(crate) overrides: Vec<(&'static str, u32)>,
}

const Q: Operand = Operand::Slot(0);
const K: Operand = Operand::Slot(1);
const V: Operand = Operand::Slot(2);
const O: Operand = Operand::Slot(3);
const PARTIALS: Operand = Operand::Workspace(0);

type Parts = (String, Vec<Scratch>, Vec<Step>);

impl Attention<'_> {
    /// What a GPU has to do.
    pub(crate) fn program(&self, caps: &Caps) -> Result<Program, Error> {
        let slots = self.qkv.slots();
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &slots)?;
        check_lengths(self.op, self.qkv)?;
        let (variant, workspace, steps) = if self.splits(caps) { self.split() } else { self.tiled() };
        let mut pieces = Vec::new();
        for step in steps {
            pieces.extend(self.qkv.cut(self.op, step, &slots, &STRIDES, caps)?);
        }
        Ok(Program::new(self.op, variant, slots, workspace, pieces))
    }

    /// Whether keys are split over workgroups: where a key head has so few rows that a block of the core would be mostly
    /// empty, or where blocks alone leave the machine idle and each has a long cache to walk; and only if one binding can
    /// hold the partial outputs.
    fn splits(&self, caps: &Caps) -> bool {
        let s = self.qkv;
        let rows = s.queries.saturating_mul(s.group());
        let idle = 4 * Tiles::new(s).groups(s) <= caps.full_groups;
        let few = rows <= 8 || (idle && rows <= 256 && s.keys - self.first_key() >= 16 * rows);
        few && self.partials().saturating_mul(4) <= caps.largest_binding().min(4 * u64::from(u32::MAX))
    }

    /// The first key that any query sees: from it to the last, all are seen.
    fn first_key(&self) -> usize {
        self.mask.keys(self.qkv, 0).start.min(self.qkv.keys - 1)
    }

    /// Elements of the partial outputs: for every row and split E of them, a maximum and a sum.
    fn partials(&self) -> u64 {
        let s = self.qkv;
        let rows = (s.batch * s.heads) as u64 * s.queries as u64;
        rows.saturating_mul((s.keys - self.first_key()).div_ceil(SPLIT_KEYS) as u64).saturating_mul(s.dim_v as u64 + 2)
    }

    fn step(&self, kernel: &'static Kernel, consts: Vec<(&'static str, u32)>, params: Params, cost: Cost) -> Step {
        let spec = Spec {
            elem: self.qkv.dtype,
            fragments: vec![COUNT_OFF, KEYS_STORED],
            consts,
            overrides: vec![("CAUSAL", self.mask.causal.into())],
        };
        let params = bytemuck::bytes_of(&Params { norm_eps: self.norm_eps, ..params }).to_vec();
        Step { kernel, spec, params, operands: vec![Q, K, V, O], first: 0, groups: 0, cost }
    }

    /// A step of a kernel that makes weights, whose cost is stated for exponentials.
    fn weighing(&self, mut step: Step) -> Step {
        if !self.exponential {
            step.spec.overrides.push(("EXPONENTIAL", 0));
            step.cost.exps = 0.0;
        }
        step.spec.overrides.extend(&self.overrides);
        step
    }

    fn tiled(&self) -> Parts {
        let (s, tiles) = (self.qkv, Tiles::new(self.qkv));
        let params = tiles.params(s, self.mask, self.score);
        let cost = tiles.cost(s, self.mask, s.dtype.size());
        let step = Step { groups: tiles.groups(s), ..self.step(self.kernels[0], tiles.consts(), params, cost) };
        (tiles.describe(), Vec::new(), vec![self.weighing(step)])
    }

    fn split(&self) -> Parts {
        let s = self.qkv;
        let rows = s.queries * s.group();
        let split_rows = rows.next_power_of_two().min(8);
        let row_blocks = rows.div_ceil(split_rows);
        // Keys before the first that any query sees are not touched.
        let first = self.first_key();
        let seen = s.keys - first;
        let splits = seen.div_ceil(SPLIT_KEYS);
        let col_splits = s.dim_v.div_ceil(MERGE_COLUMNS);
        let all_rows = s.batch * s.heads * s.queries;
        let elements = self.partials();
        let params = Params {
            row_blocks: row_blocks as u32,
            col_splits: col_splits as u32,
            splits: splits as u32,
            first_key: first as u32,
            ..Tiles::new(s).params(s, self.mask, self.score)
        };
        let (units, size) = (s.kv_units() as f64, s.dtype.size() as f64);
        let (d, e) = (s.dim_k as f64, s.dim_v as f64);
        let pairs = units * (row_blocks * split_rows * splits * SPLIT_KEYS) as f64;
        let own = Cost {
            flops: pairs * 2.0 * (d + e),
            exps: pairs,
            bytes_read: (units * (row_blocks * seen) as f64 * (d + e) + units * (rows * splits) as f64 * d) * size,
            bytes_written: elements as f64 * 4.0,
        };
        let merge = Cost {
            flops: (all_rows * splits) as f64 * e * 4.0,
            exps: (all_rows * splits) as f64 * e * 2.0,
            // Every column reads the maximum and the sum.
            bytes_read: (all_rows * splits) as f64 * e * 3.0 * 4.0,
            bytes_written: all_rows as f64 * e * size,
        };
        let consts = vec![("SPLIT_ROWS", split_rows as u32)];
        let own = Step {
            operands: vec![Q, K, V, PARTIALS],
            groups: (s.kv_units() * row_blocks * splits) as u64,
            ..self.step(self.kernels[1], consts, params, own)
        };
        let merge = Step {
            operands: vec![PARTIALS, O],
            groups: (all_rows * col_splits) as u64,
            ..self.step(self.kernels[2], vec![], params, merge)
        };
        let variant = format!("{splits} splits of {SPLIT_KEYS} keys, {split_rows} rows a workgroup");
        let workspace = vec![Scratch { name: "partial outputs", bytes: elements * 4 }];
        (variant, workspace, vec![self.weighing(own), merge])
    }
}
