//! The tiled attention core, host side: tile sizes, uniforms, bytes and flops of the kernels in
//! `shaders/cores/attention`. Pure.
//!
//! A workgroup processes a block of 64 rows. A row is one query of one query head; query heads that share a key head
//! share a block if there is room. The workgroup goes through the keys that its queries see in tiles of 32, with a
//! running maximum and sum, so that no score is written to memory. Every block reads its keys and values once, and its
//! queries once per tile of keys.
//!
//! An operator that applies the core directly to q, k and v ([`Attention`]) also has a split-K form. It is used if a
//! key head has at most eight rows, or if it has more rows but the tiled form would leave the device idle with a long
//! cache. Each workgroup processes 128 keys and writes a maximum, a sum and E partial outputs per row. A second
//! dispatch combines these in order. Keys and values are read once per eight rows.
//!
//! Keys are those of the tensor, or in each batch entry as many as a small buffer says ([`KEYS_LENGTHS`]): then one plan
//! serves a growing cache. Tiles behind the last key cost nothing; splits behind it find no key, and so do little.
//!
//! Operators differ in two points. The score of a query and a key is a WGSL fragment of the operator, which receives
//! their product and, if it needs them, their sums of squares. The weights are the exponentials of the scores, or the
//! scores themselves.

#[cfg(feature = "cpu")]
pub(crate) mod cpu;

use std::mem::offset_of;

use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::Qkv;
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths};
use crate::tensor::{Access, DType, HostTensor, Slot, TensorMap, Values};

/// Rows per workgroup, and keys per tile.
const ROWS: usize = 64;
const KEYS: usize = 32;
/// Keys per workgroup in the split-K form.
const SPLIT_KEYS: usize = 128;
/// Columns per workgroup in the dispatch that combines the splits.
const MERGE_COLUMNS: usize = 64;

params! {
    /// Must match `struct Params` in `shaders/cores/attention/types.wgsl`.
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
}

/// Slots of q, k, v and o (0 to 3), with the byte offsets of their strides in [`Params`].
pub(crate) const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Defines `Params` and the mask, which is the range of keys that a query sees.
const TYPES: Fragment = fragment!("cores/attention/types.wgsl");
/// Loads rows of q, k and v, four elements at a time.
const LOADS: Fragment = fragment!("cores/attention/loads.wgsl");
/// The score of softmax: the product times the scale.
pub(crate) const SCALED: Fragment = fragment!("cores/attention/scaled.wgsl");
/// Sums of squares for a score that needs them, and empty functions for a score that does not.
pub(crate) const SQUARES: Fragment = fragment!("cores/attention/squares.wgsl");
pub(crate) const NO_SQUARES: Fragment = fragment!("cores/attention/no_squares.wgsl");
/// The tiled form.
const CORE: Fragment = fragment!("cores/attention/attention.wgsl");
/// The split-K form: pass 1 processes one split of the keys per workgroup, pass 2 combines the splits.
const SPLIT: Fragment = fragment!("cores/attention/split_k.wgsl");
const MERGE: Fragment = fragment!("cores/attention/split_k_merge.wgsl");
/// Keys and values with the storage type of the queries.
const KEYS_STORED: Fragment = fragment!("cores/attention/keys_stored.wgsl");
/// Keys and values stored as f32.
pub(crate) const KEYS_F32: Fragment = fragment!("cores/attention/keys_f32.wgsl");

/// Keys that a batch entry has: those of the tensor, or as many as slot `lengths` says.
pub(crate) const KEYS_ALL: Fragment = fragment!("cores/attention/keys_all.wgsl");
const KEYS_LENGTHS: Fragment = fragment!("cores/attention/keys_lengths.wgsl");

/// Why every index of the core is within bounds.
pub(crate) const PROOF: &str = "indices are below products of the consts that size the arrays; loops end at consts, uniforms or the keys seen, which are \
     among those of the tensor whatever `lengths` says";

/// The tiled form. A variant brings the score, [`KEYS_ALL`] or [`KEYS_LENGTHS`], and the storage type of the keys.
pub(crate) const fn tiled_kernel(name: &'static str, proof: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, LOADS, CORE];
    Kernel { entry: "attention_tiled", ..Kernel::new(name, sources, Params::UNIFORM, Some(proof)) }
}

/// Pass 1 of the form for few queries, which splits the keys. A variant brings the same fragments as for [`tiled_kernel`].
pub(crate) const fn split_kernel(name: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, LOADS, SPLIT];
    Kernel { entry: "attention_split_k", ..Kernel::new(name, sources, Params::UNIFORM, None) }
}

/// The slot of the key counts.
pub(crate) fn lengths_slot(s: &Qkv) -> Slot {
    Slot::plain("lengths", Access::Read, DType::U32, [s.batch])
}

/// Keys of each batch entry, as the slot says.
pub(crate) fn key_counts(s: &Qkv, tensors: &TensorMap) -> Vec<usize> {
    match tensors.get("lengths").map(HostTensor::values) {
        Some(Values::U32(lengths)) => lengths.iter().map(|length| (*length as usize).min(s.keys)).collect(),
        _ => panic!("tensor lengths is missing"),
    }
}

/// Creates the kernel of pass 2 of the split-K form, which combines the splits.
pub(crate) const fn merge_kernel(name: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, MERGE];
    Kernel { entry: "attention_split_k_merge", ..Kernel::new(name, sources, Params::UNIFORM, None) }
}

/// The mask: which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask {
    pub(crate) causal: bool,
    /// Maximum number of keys per query, the last of which is its own key; only if causal.
    pub(crate) window: Option<usize>,
}

impl Mask {
    /// Keys that query `n` of `s` sees. The last query is aligned with the last key, as with a cache.
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

    /// Number of pairs of a query and a key that it sees, for one head.
    pub(crate) fn pairs(&self, s: &Qkv) -> f64 {
        if !self.causal {
            return s.queries as f64 * s.keys as f64;
        }
        // The end of the keys seen grows by one with each query, up to M. If N > M, the first queries see no key. No
        // query sees more keys than the window.
        let seen = s.queries.min(s.keys);
        let (last, first) = (s.keys as f64, (s.keys - seen + 1) as f64);
        let window = self.window.map_or(last, |w| w.min(s.keys) as f64);
        let growing = (window - first).max(0.0).min(seen as f64);
        growing * (first + first + growing - 1.0) / 2.0 + (seen as f64 - growing) * window.min(last)
    }
}

/// The tile sizes of the core for given shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// Invocations along the keys of a tile, and along the columns of the values.
    col_threads: usize,
    /// Groups of four columns per invocation.
    out4: usize,
    /// Groups of four dimensions per chunk.
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
        // Values are read once by all column splits together, keys and queries once by each of them.
        let splits = self.col_splits as f64;
        let rows = units * s.group() as f64 * visits;
        // Rows, dimensions and columns that only pad a tile are counted, because they take time too.
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

    /// Describes the tiles, for people.
    pub(crate) fn describe(&self) -> String {
        format!("tiles of {} queries x {} heads by {KEYS} keys", self.row_queries, self.block_heads)
    }
}

/// Minimum work: the parts of the inputs that are seen are read once, each output is written once, and only pairs of a
/// query and a key that it sees are computed.
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

/// An operator that applies the core directly to q, k and v. Its slots 0 to 3 are those of [`Qkv::slots`].
pub(crate) struct Attention<'a> {
    pub(crate) op: &'static str,
    pub(crate) qkv: &'a Qkv,
    pub(crate) mask: Mask,
    /// The parameter of the score, for example the scale of softmax.
    pub(crate) score: f32,
    /// Whether weights are exponentials of scores; otherwise they are the scores themselves.
    pub(crate) exponential: bool,
    /// Added to the sum of weights.
    pub(crate) norm_eps: f32,
    /// Whether slot 4 says how many keys each batch entry has.
    pub(crate) lengths: bool,
    /// The tiled form; the two of few queries. The first two [`with_lengths`] if they are to read them.
    pub(crate) kernels: &'static [Kernel; 3],
    /// The fragments of the score, for the tiled form and for the split-K form.
    pub(crate) fragments: [&'static [Fragment]; 2],
    /// Overrides for the operator's score.
    pub(crate) overrides: Vec<(&'static str, u32)>,
}

/// Every buffer of the kernels.
const OPERANDS: [Named; 6] = [
    ("q", Operand::Slot(0)),
    ("k", Operand::Slot(1)),
    ("v", Operand::Slot(2)),
    ("o", Operand::Slot(3)),
    ("lengths", Operand::Slot(4)),
    ("partials", Operand::Workspace(0)),
];

type Parts = (String, Vec<Scratch>, Vec<Step>);

impl Attention<'_> {
    /// Builds the dispatches for this device.
    pub(crate) fn program(&self, caps: &Caps) -> Result<Program, Error> {
        let mut slots = self.qkv.slots();
        slots.extend(self.lengths.then(|| lengths_slot(self.qkv)));
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &slots)?;
        check_lengths(self.op, self.qkv)?;
        let (variant, workspace, steps) = if self.splits(caps) { self.split() } else { self.tiled() };
        let mut pieces = Vec::new();
        for step in steps {
            pieces.extend(self.qkv.cut(self.op, step, &slots, &STRIDES, caps)?);
        }
        let pieces = self.qkv.strided(pieces, &STRIDES);
        Ok(Program::new(self.op, variant, slots, workspace, pieces))
    }

    /// Whether to use the split-K form: if a key head has so few rows that a block of the tiled form would be mostly
    /// empty, or if the blocks alone would leave the device idle and each has a long cache to process. The partial
    /// outputs must also fit into one binding.
    fn splits(&self, caps: &Caps) -> bool {
        let s = self.qkv;
        let rows = s.queries.saturating_mul(s.group());
        let idle = 4 * Tiles::new(s).groups(s) <= caps.full_groups;
        let few = rows <= 8 || (idle && rows <= 256 && self.most_seen() >= 16 * rows);
        few && self.partials().saturating_mul(4) <= caps.largest_binding().min(4 * u64::from(u32::MAX))
    }

    /// The first key that any query sees. All later keys are seen by some query.
    fn first_key(&self) -> usize {
        self.mask.keys(self.qkv, 0).start.min(self.qkv.keys - 1)
    }

    /// Keys from the first that any query sees to the last.
    fn most_seen(&self) -> usize {
        let s = self.qkv;
        match (self.lengths, self.mask.window) {
            (false, _) => s.keys - self.first_key(),
            // Where the last key is, a run finds out.
            (true, Some(window)) if self.mask.causal => window.saturating_add(s.queries - 1).min(s.keys),
            (true, _) => s.keys,
        }
    }

    /// Elements of the partial outputs: per row and split, E outputs, a maximum and a sum of weights.
    fn partials(&self) -> u64 {
        let s = self.qkv;
        let rows = (s.batch * s.heads) as u64 * s.queries as u64;
        rows.saturating_mul(self.most_seen().div_ceil(SPLIT_KEYS) as u64).saturating_mul(s.dim_v as u64 + 2)
    }

    fn step(
        &self,
        kernel: &'static Kernel,
        fragments: &[Fragment],
        consts: Vec<(&'static str, u32)>,
        params: Params,
        cost: Cost,
    ) -> Step {
        let overrides = vec![("CAUSAL", self.mask.causal.into())];
        let spec = Variant::new(self.qkv.dtype, consts, overrides).with(&[KEYS_STORED]).with(fragments);
        let params = Params { norm_eps: self.norm_eps, ..params };
        Step::new(kernel, spec, &params, &OPERANDS, 0, cost)
    }

    /// The fragments of a kernel that makes weights.
    fn weights(&self, score: &[Fragment]) -> Vec<Fragment> {
        let keys = if self.lengths { KEYS_LENGTHS } else { KEYS_ALL };
        score.iter().copied().chain([keys]).collect()
    }

    /// A step of a kernel that makes weights, in workgroups of so many, whose cost is stated for exponentials.
    fn weighing(&self, mut step: Step, invocations: usize) -> Step {
        if self.lengths {
            step.cost.bytes_read += step.groups as f64 * invocations as f64 * 4.0;
        }
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
        let fragments = self.weights(self.fragments[0]);
        let step = self.step(&self.kernels[0], &fragments, tiles.consts(), params, cost);
        let step = Step { groups: tiles.groups(s), ..step };
        (tiles.describe(), Vec::new(), vec![self.weighing(step, 16 * tiles.col_threads)])
    }

    fn split(&self) -> Parts {
        let s = self.qkv;
        let rows = s.queries * s.group();
        let split_rows = rows.next_power_of_two().min(8);
        let row_blocks = rows.div_ceil(split_rows);
        // Keys before the first one that any query sees are not read.
        let first = self.first_key();
        let seen = self.most_seen();
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
            groups: (s.kv_units() * row_blocks * splits) as u64,
            ..self.step(&self.kernels[1], &self.weights(self.fragments[1]), consts, params, own)
        };
        let merge =
            Step { groups: (all_rows * col_splits) as u64, ..self.step(&self.kernels[2], &[], vec![], params, merge) };
        let variant = format!("{splits} splits of {SPLIT_KEYS} keys, {split_rows} rows a workgroup");
        let workspace = vec![Scratch { name: "partial outputs", bytes: elements * 4 }];
        (variant, workspace, vec![self.weighing(own, SPLIT_KEYS), merge])
    }
}
