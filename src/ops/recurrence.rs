//! The recurrences, host side: from shapes to tiles, segments, uniforms, workspace and dispatches of the core in
//! `shaders/common/recurrence_*.wgsl`. Pure.
//!
//! A state has as many rows as features and as many columns as values have dimensions; keys write it, queries read it. An
//! operator tells how wide its features are, which kernels make them, and what that costs (`Core`).
//!
//! Bytes. With `s` the column splits, one pass moves `s` times q and k and once v and o; two passes move k and v again:
//! `(3 s + 3) / 4` of q, k, v and o where D = E and H = G. Where many query heads share a key head, its keys and values are
//! read once more for every head split ([`Tiles::head_splits`]). Segments that the plan chooses are long enough that all
//! traffic of their states stays below a tenth of that of q, k, v, o.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::Qkv;
use super::qkv::{Strides, check_lengths};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices, check_workspace};
use crate::gpu::source::{COUNT_OFF, Field, Kernel, Source, Spec, fields, source};
use crate::tensor::{DType, Slot};

/// Bytes of workgroup memory on a portable device.
const WORKGROUP_BYTES: usize = 16384;

/// Twin of `struct Params` in `shaders/common/recurrence_types.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct Params {
    pub(crate) grid: Grid,
    pub(crate) queries: u32,
    pub(crate) keys: u32,
    pub(crate) heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) dim_k: u32,
    pub(crate) dim_v: u32,
    pub(crate) rows: u32,
    pub(crate) segment: u32,
    pub(crate) segments: u32,
    pub(crate) col_splits: u32,
    pub(crate) head_splits: u32,
    pub(crate) segment_stride: u32,
    pub(crate) norm_offset: u32,
    pub(crate) scale: f32,
    pub(crate) norm_eps: f32,
    pub(crate) stored_segments: u32,
    pub(crate) nodes: u32,
    pub(crate) poly: u32,
    pub(crate) features: u32,
    pub(crate) omega: u32,
    pub(crate) first_poly: u32,
    pub(crate) poly_scale: f32,
    pub(crate) _pad: [u32; 2],
    pub(crate) q: Strides,
    pub(crate) k: Strides,
    pub(crate) v: Strides,
    pub(crate) o: Strides,
    pub(crate) node: [[f32; 4]; 32],
}

/// Fields of [`Params`], for its kernels.
pub(crate) const FIELDS: &[Field] = fields!(
    Params: grid, queries, keys, heads, kv_heads, dim_k, dim_v, rows, segment, segments, col_splits, head_splits,
    segment_stride, norm_offset, scale, norm_eps, stored_segments, nodes, poly, features, omega, first_poly, poly_scale,
    _pad, q, k, v, o, node
);

/// Where the uniform has the strides of q, k, v and o.
const STRIDES: [usize; 4] =
    [offset_of!(Params, q), offset_of!(Params, k), offset_of!(Params, v), offset_of!(Params, o)];

pub(crate) const TYPES: Source = source!("common/recurrence_types.wgsl");
pub(crate) const STATE_WRITE: Source = source!("common/state_write.wgsl");
pub(crate) const STATE_READ: Source = source!("common/state_read.wgsl");
pub(crate) const STORED: Source = source!("common/state_stored.wgsl");
pub(crate) const SEGMENT: Source = source!("common/recurrence_segment.wgsl");
pub(crate) const SCAN: Source = source!("common/recurrence_scan.wgsl");
pub(crate) const OUTPUT: Source = source!("common/recurrence_output.wgsl");
pub(crate) const DECODE: Source = source!("common/recurrence_decode.wgsl");
pub(crate) use super::qkv::STRIDES_SOURCE as STRIDES_TYPES;

/// Why indices of the core stay in bounds.
pub(crate) const PROOF: &str =
    "indices are below products of the consts that size the arrays; loops end at consts or uniforms";

/// And those of the scan.
pub(crate) const SCAN_PROOF: &str =
    "no array; one element of a state an invocation, guarded by its size; loops end at uniforms";

/// The four kernels of an operator.
pub(crate) struct Kernels {
    pub(crate) segment: &'static Kernel,
    pub(crate) scan: &'static Kernel,
    pub(crate) output: &'static Kernel,
    pub(crate) decode: &'static Kernel,
}

/// What an operator tells the core.
pub(crate) struct Core<'a> {
    pub(crate) op: &'static str,
    pub(crate) qkv: &'a Qkv,
    /// Slots q, k, v, o, then weights if there are any, then the state if it is carried.
    pub(crate) slots: Vec<Slot>,
    pub(crate) weights: Option<usize>,
    pub(crate) kernels: &'static Kernels,
    /// Fragments in front of kernels that make features.
    pub(crate) fragments: Vec<Source>,
    /// Their consts, of a kernel that reads so many query heads.
    pub(crate) consts: Vec<(&'static str, u32)>,
    pub(crate) decode_consts: Vec<(&'static str, u32)>,
    /// Rows of the state.
    pub(crate) rows: usize,
    pub(crate) causal: bool,
    pub(crate) normalize: bool,
    pub(crate) scale: f32,
    pub(crate) norm_eps: f32,
    pub(crate) segment: Option<usize>,
    pub(crate) carry: bool,
    pub(crate) decode: bool,
    /// What an operator of its own has in the uniform.
    pub(crate) params: Params,
    /// Dispatches that share the rows of a state; the entries of the polynomial map each takes.
    pub(crate) row_splits: usize,
    pub(crate) split_step: usize,
    /// Work to make the features of one token once, beside reading it.
    pub(crate) feature: Cost,
    /// Bytes of weights that a workgroup reads once, and again for each vector.
    pub(crate) weight_bytes: (f64, f64),
    /// Bytes of weights beyond the essential ones that decoding reads, for each vector.
    pub(crate) decode_weights: f64,
    /// Essential work.
    pub(crate) essential: Cost,
}

/// How one workgroup holds its part of a state and how many tokens it takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of the state in one invocation; a multiple of 4.
    pub rows: usize,
    /// Invocations along the rows: `rows * row_threads` is the width rounded up.
    pub row_threads: usize,
    /// Invocations along the columns, four columns each.
    pub col_threads: usize,
    /// Tokens in workgroup memory at a time.
    pub tile: usize,
    /// Query heads that share the workgroup.
    pub read_heads: usize,
    /// Workgroups that share the columns.
    pub col_splits: usize,
    /// Workgroups that share the query heads of a key head.
    pub head_splits: usize,
    /// Floats of the features of one token in workgroup memory.
    pub token_floats: usize,
    /// Floats there beside those of tokens.
    pub fixed_floats: usize,
}

/// Counts of invocations along an axis: widths are rounded up to few sizes, so that pipelines stay few.
const LADDER: [usize; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];

fn rung(needed: usize) -> usize {
    LADDER.into_iter().find(|&n| n >= needed).unwrap_or(256)
}

/// Invocations of a workgroup at most.
const INVOCATIONS: usize = 256;

/// Rows that one workgroup can hold.
pub(crate) const MOST_ROWS: usize = INVOCATIONS * 16;

impl Tiles {
    /// Tiles for so many rows, `dim_v` columns and `group` query heads a key head. A token's features take `token_floats` of
    /// workgroup memory (`None`: as many as rows), and `fixed_floats` are taken once.
    pub fn new(rows: usize, dim_v: usize, group: usize, token_floats: Option<usize>, fixed_floats: usize) -> Self {
        // More rows in registers mean fewer partial sums; fewer rows mean more invocations for small heads.
        let each = match rows {
            ..32 => 4,
            32..64 => 8,
            _ => 16,
        };
        let row_threads = rung(rows.div_ceil(each));
        let most_cols = (INVOCATIONS / row_threads).min(16);
        let col_splits = dim_v.div_ceil(4 * most_cols);
        let col_threads = rung(dim_v.div_ceil(col_splits).div_ceil(4)).min(most_cols);
        let mut tiles = Self {
            rows: each,
            row_threads,
            col_threads,
            tile: 1,
            read_heads: group,
            col_splits,
            head_splits: 1,
            token_floats: token_floats.unwrap_or(each * row_threads),
            fixed_floats,
        };
        while tiles.read_heads > 1 && tiles.with_tile(2).workgroup_bytes() > WORKGROUP_BYTES {
            tiles.read_heads = tiles.read_heads.div_ceil(2);
        }
        tiles.head_splits = group.div_ceil(tiles.read_heads);
        let fits = |tile: &usize| tiles.with_tile(*tile).workgroup_bytes() <= WORKGROUP_BYTES;
        tiles.tile = [32, 16, 8, 4, 2].into_iter().find(fits).unwrap_or(1);
        tiles
    }

    fn with_tile(self, tile: usize) -> Self {
        Self { tile, ..self }
    }

    /// Bytes of workgroup memory of the kernel that writes outputs.
    pub fn workgroup_bytes(&self) -> usize {
        let cols = 4 * self.col_threads;
        let weights = (self.read_heads * self.tile * self.row_threads).next_multiple_of(4);
        let keys = self.tile * (self.token_floats + cols);
        let queries = self.read_heads * self.tile * (self.token_floats + self.row_threads * cols);
        4 * (self.fixed_floats + keys + queries + weights)
    }

    fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("TILE", self.tile as u32),
            ("ROWS", self.rows as u32),
            ("ROW_THREADS", self.row_threads as u32),
            ("COL_THREADS", self.col_threads as u32),
        ]
    }
}

/// How the sequence is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// One token, one dispatch.
    Decode,
    /// One workgroup walks a head from end to end.
    OnePass,
    /// Segment states, a scan over them, a second walk; tokens in a segment of keys and of queries.
    TwoPasses {
        /// Tokens in a segment of keys.
        keys: usize,
        /// Tokens in a segment of queries; the same when causal.
        queries: usize,
    },
}

// Order of the slots, then of the workspace.
const Q: Operand = Operand::Slot(0);
const K: Operand = Operand::Slot(1);
const V: Operand = Operand::Slot(2);
const O: Operand = Operand::Slot(3);
const SEGMENTS: Operand = Operand::Workspace(0);

impl Core<'_> {
    /// Elements of a segment's state.
    pub(crate) fn segment_stride(&self) -> usize {
        self.rows * (self.qkv.dim_v + usize::from(self.normalize))
    }

    /// The shortest segment whose state traffic stays below a tenth of that of its tokens: written, read and written by the
    /// scan, read by every head split, its sums of features by every column split.
    fn shortest_segment(&self, tiles: &Tiles) -> usize {
        let sums = if self.normalize { (tiles.col_splits - 1) * tiles.head_splits * self.rows } else { 0 };
        let state = 4 * ((3 + tiles.head_splits) * self.segment_stride() + sums);
        let token = (self.qkv.dim_k + self.qkv.dim_v) * (1 + self.qkv.group()) * self.qkv.dtype.size();
        (10 * state).div_ceil(token).next_multiple_of(64)
    }

    /// The longest segment with which a machine full of workgroups stays within the work of one dispatch.
    fn longest_segment(&self, tiles: &Tiles, caps: &Caps) -> usize {
        let share = (tiles.col_splits * self.row_splits) as f64;
        let token = 2.0 * self.segment_stride() as f64 / share * (1 + tiles.read_heads) as f64;
        (caps.dispatch_flops / (caps.full_groups as f64 * token)) as usize
    }

    /// Chooses the walk.
    pub(crate) fn walk(&self, tiles: &Tiles, caps: &Caps) -> Walk {
        let s = self.qkv;
        if self.decode {
            return Walk::Decode;
        }
        if let Some(segment) = self.segment {
            return Walk::TwoPasses { keys: segment.min(s.keys), queries: segment.min(s.queries) };
        }
        let shortest = self.shortest_segment(tiles);
        let longest = self.longest_segment(tiles, caps).max(shortest);
        let groups = (s.batch * s.kv_heads * tiles.col_splits * tiles.head_splits) as u64;
        let fills = 2 * groups > caps.full_groups;
        // Enough segments to fill the machine, and more where one would take too long.
        let wanted = if fills { 1 } else { caps.full_groups.div_ceil(groups) as usize };
        let split = |tokens: usize| {
            let segments = (tokens / shortest).clamp(1, wanted.max(tokens.div_ceil(longest)));
            tokens.div_ceil(segments).next_multiple_of(tiles.tile)
        };
        let segment = split(s.keys);
        if !self.causal {
            return Walk::TwoPasses { keys: segment, queries: split(s.queries) };
        }
        if segment >= s.keys { Walk::OnePass } else { Walk::TwoPasses { keys: segment, queries: segment } }
    }

    /// What a GPU has to do.
    pub(crate) fn program(&self, state: &Slot, tiles: &Tiles, caps: &Caps) -> Result<Program, Error> {
        caps.require(self.op, self.qkv.dtype)?;
        check_indices(self.op, &self.slots)?;
        check_indices(self.op, std::slice::from_ref(state))?;
        // The end of the last segment may lie up to a segment beyond that of the sequence, and is computed in u32.
        check_lengths(self.op, self.qkv)?;
        Builder::new(self, *tiles, self.walk(tiles, caps)).build(caps)
    }
}

struct Builder<'a> {
    c: &'a Core<'a>,
    tiles: Tiles,
    walk: Walk,
    kv: u64,
    params: Params,
}

impl<'a> Builder<'a> {
    /// Every tensor has at most `u32::MAX` elements and every sequence 2^30 tokens here, so that no cast below loses anything
    /// that is used.
    fn new(c: &'a Core<'a>, tiles: Tiles, walk: Walk) -> Self {
        let s = c.qkv;
        let [q, k, v, o] = s.strides();
        let kv = s.kv_units() as u64;
        let state = kv as usize * c.rows * s.dim_v;
        let params = Params {
            queries: s.queries as u32,
            keys: s.keys as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            dim_k: s.dim_k as u32,
            dim_v: s.dim_v as u32,
            rows: c.rows as u32,
            col_splits: tiles.col_splits as u32,
            head_splits: tiles.head_splits as u32,
            segment_stride: c.segment_stride() as u32,
            norm_offset: state.next_multiple_of(4) as u32,
            scale: c.scale,
            norm_eps: c.norm_eps,
            q,
            k,
            v,
            o,
            ..c.params
        };
        Self { c, tiles, walk, kv, params }
    }

    fn build(self, caps: &Caps) -> Result<Program, Error> {
        let (c, s) = (self.c, self.c.qkv);
        let (key_segments, steps) = match self.walk {
            Walk::Decode => (0, vec![self.decode()]),
            Walk::OnePass => {
                let whole = s.keys.next_multiple_of(self.tiles.tile);
                let mut steps = self.parts(|part| self.output(part, whole, 1, if c.carry { 2 } else { 0 }, c.carry));
                if c.carry {
                    steps.push(self.scan(1, 2));
                }
                (1, steps)
            }
            Walk::TwoPasses { keys, queries } => {
                let segments = s.keys.div_ceil(keys);
                let mut steps = self.parts(|part| self.segment(part, keys, segments));
                steps.push(self.scan(segments, if c.causal { 0 } else { 1 }));
                steps.extend(self.parts(|part| self.output(part, queries, segments, 1, false)));
                (segments, steps)
            }
        };
        let mut pieces = Vec::new();
        for step in steps {
            pieces.extend(s.cut(c.op, step, STRIDES, caps)?);
        }
        let mut workspace = Vec::new();
        if key_segments > 0 {
            let keep = matches!(self.walk, Walk::TwoPasses { .. }) || c.carry;
            let count = if keep { self.kv * key_segments as u64 } else { 0 };
            let elements = count.saturating_mul(c.segment_stride() as u64);
            workspace.push(Scratch { name: "segment states", bytes: elements.saturating_mul(4).max(16) });
            workspace.push(Scratch { name: "no state", bytes: 16 });
            if c.weights.is_some() {
                let sums = if c.row_splits > 1 { self.rows() as u64 * (s.dim_v as u64 + 1) * 4 } else { 0 };
                workspace.push(Scratch { name: "partial outputs", bytes: sums.max(16) });
            } else if c.carry {
                workspace.pop();
            }
        }
        check_workspace(c.op, &workspace)?;
        let t = self.tiles;
        let rows =
            if c.row_splits > 1 { format!("{} of {}", t.rows * t.row_threads, c.rows) } else { c.rows.to_string() };
        let tile = format!("tiles of {} tokens, {rows} x {} of the state a workgroup", t.tile, 4 * t.col_threads);
        let variant = match self.walk {
            Walk::Decode => "one token".into(),
            Walk::OnePass => format!("one pass, {tile}"),
            Walk::TwoPasses { keys, .. } => format!("two passes, segments of {keys}, {tile}"),
        };
        Ok(Program::new(c.op, variant, c.slots.clone(), workspace, pieces))
    }

    /// One step for each part of the rows.
    fn parts(&self, step: impl Fn(usize) -> Step) -> Vec<Step> {
        (0..self.c.row_splits).map(step).collect()
    }

    fn state(&self) -> Operand {
        if self.c.carry { Operand::Slot(self.c.slots.len() - 1) } else { Operand::Workspace(1) }
    }

    /// Rows (batch, query head, token) of the output.
    fn rows(&self) -> usize {
        self.c.qkv.batch * self.c.qkv.heads * self.c.qkv.queries
    }

    fn spec(&self, consts: Vec<(&'static str, u32)>, overrides: Vec<(&'static str, u32)>) -> Spec {
        let mut fragments = vec![COUNT_OFF];
        fragments.extend(self.c.fragments.iter().copied());
        Spec { elem: self.c.qkv.dtype, fragments, consts, overrides }
    }

    fn step(
        &self,
        kernel: &'static Kernel,
        spec: Spec,
        params: Params,
        operands: &[Operand],
        groups: u64,
        cost: Cost,
    ) -> Step {
        let params = bytemuck::bytes_of(&params).to_vec();
        Step { kernel, spec, params, operands: operands.to_vec(), first: 0, groups, cost }
    }

    /// Keys, values, then weights if there are any.
    fn inputs(&self, more: &[Operand]) -> Vec<Operand> {
        let mut operands = vec![K, V];
        operands.extend(self.c.weights.map(Operand::Slot));
        operands.extend(more);
        operands
    }

    fn normalize(&self) -> (&'static str, u32) {
        ("NORMALIZE", self.c.normalize.into())
    }

    /// Flops of one token's update or read of one head, of one part of the rows.
    fn touch(&self) -> f64 {
        2.0 * self.c.segment_stride() as f64 / self.c.row_splits as f64
    }

    fn state_bytes(&self) -> f64 {
        self.kv as f64 * self.c.segment_stride() as f64 * 4.0
    }

    /// Tokens of all key heads, and bytes of all keys and of all values.
    fn key_bytes(&self) -> (f64, f64, f64) {
        let tokens = self.kv as f64 * self.c.qkv.keys as f64;
        let size = self.c.qkv.dtype.size() as f64;
        (tokens, tokens * size * self.c.qkv.dim_k as f64, tokens * size * self.c.qkv.dim_v as f64)
    }

    /// Tokens of a head in segments of that length, each filled up to whole tiles: what features are made of.
    fn padded(&self, tokens: usize, length: usize) -> f64 {
        let tile = self.tiles.tile;
        let (whole, rest) = (tokens / length, tokens % length);
        (whole * length.next_multiple_of(tile) + rest.next_multiple_of(tile)) as f64 * self.kv as f64
    }

    /// Work to make the features of so many vectors in so many workgroups.
    fn features(&self, vectors: f64, groups: f64) -> Cost {
        let (once, each) = self.c.weight_bytes;
        let mut cost = self.c.feature * vectors;
        cost.bytes_read += once * groups + each * vectors;
        cost
    }

    fn part_params(&self, part: usize) -> Params {
        Params { first_poly: (part * self.c.split_step) as u32, ..self.params }
    }

    fn segment(&self, part: usize, length: usize, segments: usize) -> Step {
        let params = Params {
            segment: length as u32,
            segments: segments as u32,
            stored_segments: segments as u32,
            head_splits: 1,
            ..self.part_params(part)
        };
        let groups = self.kv * segments as u64 * self.tiles.col_splits as u64;
        let (tokens, k, v) = self.key_bytes();
        let splits = self.tiles.col_splits as f64;
        let cost = Cost {
            flops: tokens * self.touch(),
            exps: 0.0,
            bytes_read: k * splits + v,
            bytes_written: self.state_bytes() * segments as f64 / self.c.row_splits as f64,
        } + self.features(self.padded(self.c.qkv.keys, length) * splits, groups as f64);
        let mut consts = self.tiles.consts();
        if self.c.weights.is_some() {
            consts.push(("READ_HEADS", 0));
        }
        consts.extend(&self.c.consts);
        let spec = self.spec(consts, vec![self.normalize()]);
        self.step(self.c.kernels.segment, spec, params, &self.inputs(&[SEGMENTS]), groups, cost)
    }

    fn scan(&self, segments: usize, mode: u32) -> Step {
        let stride = self.c.segment_stride();
        let params = Params { segments: segments as u32, stored_segments: segments as u32, ..self.params };
        let groups = self.kv * (stride as u64).div_ceil(64);
        let all = self.state_bytes() * segments as f64;
        let carried = if self.c.carry { self.state_bytes() } else { 0.0 };
        let cost = Cost {
            flops: self.kv as f64 * segments as f64 * stride as f64,
            exps: 0.0,
            bytes_read: all + if mode == 2 { 0.0 } else { carried },
            bytes_written: carried
                + match mode {
                    0 => all,
                    1 => self.state_bytes(),
                    _ => 0.0,
                },
        };
        let overrides = vec![self.normalize(), ("CARRY", self.c.carry.into()), ("MODE", mode)];
        let spec = Spec { elem: DType::F32, fragments: vec![COUNT_OFF], consts: vec![], overrides };
        self.step(self.c.kernels.scan, spec, params, &[SEGMENTS, self.state()], groups, cost)
    }

    fn output(&self, part: usize, length: usize, stored: usize, init: u32, store: bool) -> Step {
        let (c, t, s) = (self.c, self.tiles, self.c.qkv);
        let segments = s.queries.div_ceil(length);
        let params = Params {
            segment: length as u32,
            segments: segments as u32,
            stored_segments: stored as u32,
            ..self.part_params(part)
        };
        let groups = self.kv * segments as u64 * (t.col_splits * t.head_splits) as u64;
        let rows = self.rows() as f64;
        let size = s.dtype.size() as f64;
        let (tokens, k, v) = self.key_bytes();
        let (col_splits, head_splits) = (t.col_splits as f64, t.head_splits as f64);
        let share = 1.0 / c.row_splits as f64;
        // The sums of features are read by every column split.
        let norm = if c.normalize { self.kv as f64 * c.rows as f64 * 4.0 * (col_splits - 1.0) } else { 0.0 };
        let start = (self.state_bytes() + norm) * segments as f64 * head_splits * share;
        // Where rows are split, sums wait for the next part: columns once, their weight for all splits of them at the end.
        let (first, last) = (part == 0, part + 1 == c.row_splits);
        let sums = |columns: f64| rows * (s.dim_v as f64 + columns) * 4.0;
        let waiting = match (first, last) {
            (true, true) => (0.0, 0.0),
            (true, false) => (0.0, sums(1.0)),
            (false, false) => (sums(1.0), sums(1.0)),
            (false, true) => (sums((s.dim_v as f64 / 4.0).ceil()), 0.0),
        };
        let queries = self.padded(s.queries, length) * (t.read_heads * t.head_splits) as f64 * col_splits;
        let mut cost = Cost {
            flops: rows * self.touch(),
            exps: 0.0,
            bytes_read: rows * s.dim_k as f64 * size * col_splits + if init == 0 { 0.0 } else { start } + waiting.0,
            bytes_written: if last { rows * s.dim_v as f64 * size } else { 0.0 }
                + if store { self.state_bytes() * share } else { 0.0 }
                + waiting.1,
        } + self.features(queries, groups as f64);
        if c.causal {
            cost =
                cost + Cost {
                    flops: tokens * self.touch() * head_splits,
                    exps: 0.0,
                    bytes_read: (k * col_splits + v) * head_splits,
                    bytes_written: 0.0,
                } + self.features(self.padded(s.keys, length) * col_splits * head_splits, 0.0);
        }
        let mut consts = t.consts();
        consts.push(("READ_HEADS", t.read_heads as u32));
        consts.extend(&c.consts);
        let mut overrides =
            vec![self.normalize(), ("CAUSAL", c.causal.into()), ("INIT", init), ("STORE", store.into())];
        let mut operands = self.inputs(&[Q, self.state(), O, SEGMENTS]);
        if c.weights.is_some() {
            overrides.extend([("FIRST", first.into()), ("LAST", last.into())]);
            operands.push(Operand::Workspace(2));
        }
        self.step(c.kernels.output, self.spec(consts, overrides), params, &operands, groups, cost)
    }

    fn decode(&self) -> Step {
        let c = self.c;
        let spec = self.spec(c.decode_consts.clone(), vec![self.normalize()]);
        let mut cost = c.essential;
        // Query heads after the first read the state again; each of four lanes reads the values of its column.
        cost.bytes_read += (c.qkv.group() - 1) as f64 * self.state_bytes();
        cost.bytes_read += 3.0 * self.key_bytes().2;
        let vectors = (c.qkv.batch * (c.qkv.heads + c.qkv.kv_heads)) as f64;
        cost.bytes_read += c.decode_weights * vectors;
        self.step(c.kernels.decode, spec, self.params, &self.inputs(&[Q, self.state(), O]), self.kv, cost)
    }
}
