//! From a configuration to tiles, segments, uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! Bytes. With `s` the column splits, one pass moves `s` times q and k and once v and o; two passes move k and v again:
//! `(3 s + 3) / 4` of q, k, v and o where D = E and H = G. `s` is 1 up to E = 64, 2 up to 128, 4 up to 256. Where many
//! query heads share a key head, its keys and values are read once more for every head split ([`Tiles::head_splits`]).
//! Segments that the plan chooses are long enough that all traffic of their states stays below a tenth of that of
//! q, k, v, o.

use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use super::{Config, FeatureMap, MAX_DIM, NAME};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices, check_workspace};
use crate::gpu::source::{Bind, COUNT_OFF, Field, Kernel, Source, Spec, fields, source};
use crate::ops::Operator;
use crate::ops::qkv::{STRIDES_SOURCE, Strides, check_lengths};
use crate::tensor::DType;

/// Bytes of workgroup memory on a portable device.
const WORKGROUP_BYTES: usize = 16384;

/// Twin of `struct Params` in `shaders/linear/types.wgsl`.
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
    segment: u32,
    segments: u32,
    col_splits: u32,
    head_splits: u32,
    segment_stride: u32,
    norm_offset: u32,
    scale: f32,
    norm_eps: f32,
    stored_segments: u32,
    _pad: u32,
    q: Strides,
    k: Strides,
    v: Strides,
    o: Strides,
}

const FIELDS: &[Field] = fields!(
    Params: grid, queries, keys, heads, kv_heads, dim_k, dim_v, segment, segments, col_splits, head_splits, segment_stride,
    norm_offset, scale, norm_eps, stored_segments, _pad, q, k, v, o
);

/// Where the uniform has the strides of q, k, v and o.
const STRIDES: [usize; 4] =
    [offset_of!(Params, q), offset_of!(Params, k), offset_of!(Params, v), offset_of!(Params, o)];

const TYPES: Source = source!("linear/types.wgsl");
const KEYS: Source = source!("linear/keys.wgsl");
const STORED: Source = source!("linear/stored.wgsl");
const STATE_WRITE: Source = source!("common/state_write.wgsl");
const STATE_READ: Source = source!("common/state_read.wgsl");

const TILE_PROOF: &str =
    "indices are below products of the consts that size the arrays; loops end at consts or uniforms";

static SEGMENT: Kernel = Kernel {
    name: "linear_segment",
    sources: &[STRIDES_SOURCE, TYPES, STATE_WRITE, KEYS, STORED, source!("linear/segment.wgsl")],
    bindings: &[("k", Bind::Read), ("v", Bind::Read), ("segments", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: Some(TILE_PROOF),
};

static SCAN: Kernel = Kernel {
    name: "linear_scan",
    sources: &[STRIDES_SOURCE, TYPES, source!("linear/scan.wgsl")],
    bindings: &[("segments", Bind::Write), ("state", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: Some("no array; one element of a state an invocation, guarded by its size; loops end at uniforms"),
};

static OUTPUT: Kernel = Kernel {
    name: "linear_output",
    sources: &[STRIDES_SOURCE, TYPES, STATE_WRITE, STATE_READ, KEYS, STORED, source!("linear/output.wgsl")],
    bindings: &[
        ("k", Bind::Read),
        ("v", Bind::Read),
        ("q", Bind::Read),
        ("state", Bind::Read),
        ("o", Bind::Write),
        ("segments", Bind::Write),
    ],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: Some(TILE_PROOF),
};

static DECODE: Kernel = Kernel {
    name: "linear_decode",
    sources: &[STRIDES_SOURCE, TYPES, source!("linear/decode.wgsl")],
    bindings: &[("k", Bind::Read), ("v", Bind::Read), ("q", Bind::Read), ("state", Bind::Write), ("o", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: None,
};

fn feature_source(map: FeatureMap) -> Source {
    match map {
        FeatureMap::Elu1 => source!("common/feature_elu1.wgsl"),
        FeatureMap::Relu => source!("common/feature_relu.wgsl"),
        FeatureMap::Identity => source!("common/feature_identity.wgsl"),
    }
}

/// How one workgroup holds its part of a state and how many tokens it takes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiles {
    /// Rows of the state in one invocation; a multiple of 4.
    pub rows: usize,
    /// Invocations along the rows: `rows * row_threads` is D rounded up.
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
}

/// Counts of invocations along an axis: D and E are rounded up to few sizes, so that pipelines stay few.
const LADDER: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];

fn rung(needed: usize) -> usize {
    LADDER.into_iter().find(|&n| n >= needed).unwrap_or(16)
}

impl Tiles {
    /// Tiles for these dimensions and `group` query heads a key head.
    pub fn new(dim_k: usize, dim_v: usize, group: usize) -> Self {
        let col_splits = dim_v.div_ceil(64);
        let col_threads = rung(dim_v.div_ceil(col_splits).div_ceil(4));
        // More rows in registers mean fewer partial sums; fewer rows mean more invocations for small heads.
        let rows = match dim_k {
            ..32 => 4,
            32..64 => 8,
            _ => 16,
        };
        let row_threads = rung(dim_k.div_ceil(rows));
        let mut tiles = Self { rows, row_threads, col_threads, tile: 1, read_heads: group, col_splits, head_splits: 1 };
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

    /// Bytes of workgroup memory of `linear_output`.
    pub fn workgroup_bytes(&self) -> usize {
        let dim = self.rows * self.row_threads;
        let cols = 4 * self.col_threads;
        let weights = (self.read_heads * self.tile * self.row_threads).next_multiple_of(4);
        4 * (self.tile * (dim + cols) + self.read_heads * self.tile * (dim + self.row_threads * cols) + weights)
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

/// Elements of a segment's state.
fn segment_stride(c: &Config) -> usize {
    c.qkv.dim_k * c.qkv.dim_v + if c.normalize { c.qkv.dim_k } else { 0 }
}

/// The shortest segment whose state traffic stays below a tenth of that of its tokens: written, read and written by the
/// scan, read by every head split, its sums of features by every column split.
fn shortest_segment(c: &Config, tiles: &Tiles) -> usize {
    let sums = if c.normalize { (tiles.col_splits - 1) * tiles.head_splits * c.qkv.dim_k } else { 0 };
    let state = 4 * ((3 + tiles.head_splits) * segment_stride(c) + sums);
    let token = (c.qkv.dim_k + c.qkv.dim_v) * (1 + c.qkv.group()) * c.qkv.dtype.size();
    (10 * state).div_ceil(token).next_multiple_of(64)
}

/// The longest segment with which a machine full of workgroups stays within the work of one dispatch.
fn longest_segment(c: &Config, tiles: &Tiles, caps: &Caps) -> usize {
    let token = 2.0 * segment_stride(c) as f64 / tiles.col_splits as f64 * (1 + tiles.read_heads) as f64;
    (caps.dispatch_flops / (caps.full_groups as f64 * token)) as usize
}

/// Chooses the walk.
pub fn walk(c: &Config, tiles: &Tiles, caps: &Caps) -> Walk {
    if c.decode {
        return Walk::Decode;
    }
    if let Some(segment) = c.segment {
        return Walk::TwoPasses { keys: segment.min(c.qkv.keys), queries: segment.min(c.qkv.queries) };
    }
    let shortest = shortest_segment(c, tiles);
    let longest = longest_segment(c, tiles, caps).max(shortest);
    let groups = (c.qkv.batch * c.qkv.kv_heads * tiles.col_splits * tiles.head_splits) as u64;
    let fills = 2 * groups > caps.full_groups;
    // Enough segments to fill the machine, and more where one would take too long.
    let wanted = if fills { 1 } else { caps.full_groups.div_ceil(groups) as usize };
    let split = |tokens: usize| {
        let segments = (tokens / shortest).clamp(1, wanted.max(tokens.div_ceil(longest)));
        tokens.div_ceil(segments).next_multiple_of(tiles.tile)
    };
    let segment = split(c.qkv.keys);
    if !c.causal {
        return Walk::TwoPasses { keys: segment, queries: split(c.qkv.queries) };
    }
    if segment >= c.qkv.keys { Walk::OnePass } else { Walk::TwoPasses { keys: segment, queries: segment } }
}

/// Exponentials of one element's feature.
fn exps_each(c: &Config) -> f64 {
    if c.feature_map == FeatureMap::Elu1 { 1.0 } else { 0.0 }
}

/// Essential work: each input read once, each output written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let (d, e) = (c.qkv.dim_k as f64, c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let state = if c.carry { c.qkv.kv_units() as f64 * segment_stride(c) as f64 * 4.0 } else { 0.0 };
    let norm = if c.normalize { d } else { 0.0 };
    Cost {
        flops: 2.0 * (q + k) * (e + norm / d),
        exps: (q + k) * exps_each(c),
        bytes_read: (q + k + v) * size + state,
        bytes_written: o * size + state,
    }
}

/// What a GPU has to do.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.qkv.dtype)?;
    check_indices(NAME, &c.slots())?;
    check_indices(NAME, &[c.state_slot()])?;
    // The end of the last segment may lie up to a segment beyond that of the sequence, and is computed in u32.
    check_lengths(NAME, &c.qkv)?;
    let tiles = Tiles::new(c.qkv.dim_k, c.qkv.dim_v, c.qkv.group());
    let walk = walk(c, &tiles, caps);
    Builder::new(c, tiles, walk).build(caps)
}

struct Builder<'a> {
    c: &'a Config,
    tiles: Tiles,
    walk: Walk,
    kv: u64,
    params: Params,
}

// Order of the slots in `Config::slots`, then of the workspace.
const Q: Operand = Operand::Slot(0);
const K: Operand = Operand::Slot(1);
const V: Operand = Operand::Slot(2);
const O: Operand = Operand::Slot(3);
const STATE: Operand = Operand::Slot(4);
const SEGMENTS: Operand = Operand::Workspace(0);
const NO_STATE: Operand = Operand::Workspace(1);

impl<'a> Builder<'a> {
    /// Every tensor has at most `u32::MAX` elements and every sequence 2^30 tokens here, so that no cast below loses anything
    /// that is used.
    fn new(c: &'a Config, tiles: Tiles, walk: Walk) -> Self {
        let [q, k, v, o] = c.qkv.strides();
        let kv = c.qkv.kv_units() as u64;
        let state = kv as usize * c.qkv.dim_k * c.qkv.dim_v;
        let params = Params {
            queries: c.qkv.queries as u32,
            keys: c.qkv.keys as u32,
            heads: c.qkv.heads as u32,
            kv_heads: c.qkv.kv_heads as u32,
            dim_k: c.qkv.dim_k as u32,
            dim_v: c.qkv.dim_v as u32,
            col_splits: tiles.col_splits as u32,
            head_splits: tiles.head_splits as u32,
            segment_stride: segment_stride(c) as u32,
            norm_offset: state.next_multiple_of(4) as u32,
            scale: c.effective_scale(),
            norm_eps: c.norm_eps,
            q,
            k,
            v,
            o,
            ..Params::default()
        };
        Self { c, tiles, walk, kv, params }
    }

    fn build(self, caps: &Caps) -> Result<Program, Error> {
        let c = self.c;
        let (key_segments, steps) = match self.walk {
            Walk::Decode => (0, vec![self.decode()]),
            Walk::OnePass => {
                let whole = c.qkv.keys.next_multiple_of(self.tiles.tile);
                let mut steps = vec![self.output(whole, 1, if c.carry { 2 } else { 0 }, c.carry)];
                if c.carry {
                    steps.push(self.scan(1, 2));
                }
                (1, steps)
            }
            Walk::TwoPasses { keys, queries } => {
                let segments = c.qkv.keys.div_ceil(keys);
                let mode = if c.causal { 0 } else { 1 };
                let steps = vec![
                    self.segment(keys, segments),
                    self.scan(segments, mode),
                    self.output(queries, segments, 1, false),
                ];
                (segments, steps)
            }
        };
        let mut pieces = Vec::new();
        for step in steps {
            pieces.extend(c.qkv.cut(NAME, step, STRIDES, caps)?);
        }
        let mut workspace = Vec::new();
        if key_segments > 0 {
            let keep = matches!(self.walk, Walk::TwoPasses { .. }) || c.carry;
            let count = if keep { self.kv * key_segments as u64 } else { 0 };
            let elements = count.saturating_mul(segment_stride(c) as u64);
            workspace.push(Scratch { name: "segment states", bytes: elements.saturating_mul(4).max(16) });
            if !c.carry {
                workspace.push(Scratch { name: "no state", bytes: 16 });
            }
        }
        check_workspace(NAME, &workspace)?;
        let t = self.tiles;
        let tile =
            format!("tiles of {} tokens, {} x {} of the state a workgroup", t.tile, c.qkv.dim_k, 4 * t.col_threads);
        let variant = match self.walk {
            Walk::Decode => "one token".into(),
            Walk::OnePass => format!("one pass, {tile}"),
            Walk::TwoPasses { keys, .. } => format!("two passes, segments of {keys}, {tile}"),
        };
        Ok(Program::new(NAME, variant, c.slots(), workspace, pieces))
    }

    fn state(&self) -> Operand {
        if self.c.carry { STATE } else { NO_STATE }
    }

    fn spec(&self, consts: Vec<(&'static str, u32)>, overrides: Vec<(&'static str, u32)>, features: bool) -> Spec {
        let mut fragments = vec![COUNT_OFF];
        if features {
            fragments.push(feature_source(self.c.feature_map));
        }
        let elem = if features { self.c.qkv.dtype } else { DType::F32 };
        Spec { elem, fragments, consts, overrides }
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

    fn normalize(&self) -> (&'static str, u32) {
        ("NORMALIZE", self.c.normalize.into())
    }

    /// Flops of one token's update or read of one head.
    fn touch(&self) -> f64 {
        2.0 * segment_stride(self.c) as f64
    }

    fn state_bytes(&self) -> f64 {
        self.kv as f64 * segment_stride(self.c) as f64 * 4.0
    }

    /// Bytes of all keys and of all values.
    fn key_bytes(&self) -> (f64, f64) {
        let tokens = self.kv as f64 * self.c.qkv.keys as f64 * self.c.qkv.dtype.size() as f64;
        (tokens * self.c.qkv.dim_k as f64, tokens * self.c.qkv.dim_v as f64)
    }

    /// Exponentials to make the features of all keys once.
    fn key_exps(&self) -> f64 {
        self.kv as f64 * (self.c.qkv.keys * self.c.qkv.dim_k) as f64 * exps_each(self.c)
    }

    fn segment(&self, length: usize, segments: usize) -> Step {
        let params = Params {
            segment: length as u32,
            segments: segments as u32,
            stored_segments: segments as u32,
            head_splits: 1,
            ..self.params
        };
        let groups = self.kv * segments as u64 * self.tiles.col_splits as u64;
        let (k, v) = self.key_bytes();
        let cost = Cost {
            flops: self.kv as f64 * self.c.qkv.keys as f64 * self.touch(),
            exps: self.key_exps() * self.tiles.col_splits as f64,
            bytes_read: k * self.tiles.col_splits as f64 + v,
            bytes_written: self.state_bytes() * segments as f64,
        };
        let spec = self.spec(self.tiles.consts(), vec![self.normalize()], true);
        self.step(&SEGMENT, spec, params, &[K, V, SEGMENTS], groups, cost)
    }

    fn scan(&self, segments: usize, mode: u32) -> Step {
        let params = Params { segments: segments as u32, stored_segments: segments as u32, ..self.params };
        let groups = self.kv * (segment_stride(self.c) as u64).div_ceil(64);
        let all = self.state_bytes() * segments as f64;
        let carried = if self.c.carry { self.state_bytes() } else { 0.0 };
        let cost = Cost {
            flops: self.kv as f64 * segments as f64 * segment_stride(self.c) as f64,
            exps: 0.0,
            bytes_read: all + if mode == 2 { 0.0 } else { carried },
            bytes_written: carried
                + match mode {
                    0 => all,
                    1 => self.state_bytes(),
                    _ => 0.0,
                },
        };
        let spec = self.spec(vec![], vec![self.normalize(), ("CARRY", self.c.carry.into()), ("MODE", mode)], false);
        self.step(&SCAN, spec, params, &[SEGMENTS, self.state()], groups, cost)
    }

    fn output(&self, length: usize, stored: usize, init: u32, store: bool) -> Step {
        let (c, t) = (self.c, self.tiles);
        let segments = c.qkv.queries.div_ceil(length);
        let params =
            Params { segment: length as u32, segments: segments as u32, stored_segments: stored as u32, ..self.params };
        let groups = self.kv * segments as u64 * (t.col_splits * t.head_splits) as u64;
        let rows = (c.qkv.batch * c.qkv.heads * c.qkv.queries) as f64;
        let size = c.qkv.dtype.size() as f64;
        let (k, v) = self.key_bytes();
        let (col_splits, head_splits) = (t.col_splits as f64, t.head_splits as f64);
        // The sums of features are read by every column split.
        let norm = if c.normalize { self.kv as f64 * c.qkv.dim_k as f64 * 4.0 * (col_splits - 1.0) } else { 0.0 };
        let start = (self.state_bytes() + norm) * segments as f64 * head_splits;
        let mut cost = Cost {
            flops: rows * self.touch(),
            exps: rows * c.qkv.dim_k as f64 * exps_each(c) * col_splits,
            bytes_read: rows * c.qkv.dim_k as f64 * size * col_splits + if init == 0 { 0.0 } else { start },
            bytes_written: rows * c.qkv.dim_v as f64 * size + if store { self.state_bytes() } else { 0.0 },
        };
        if c.causal {
            cost.flops += self.kv as f64 * c.qkv.keys as f64 * self.touch() * head_splits;
            cost.exps += self.key_exps() * col_splits * head_splits;
            cost.bytes_read += (k * col_splits + v) * head_splits;
        }
        let mut consts = t.consts();
        consts.push(("READ_HEADS", t.read_heads as u32));
        let overrides = vec![self.normalize(), ("CAUSAL", c.causal.into()), ("INIT", init), ("STORE", store.into())];
        let spec = self.spec(consts, overrides, true);
        self.step(&OUTPUT, spec, params, &[K, V, Q, self.state(), O, SEGMENTS], groups, cost)
    }

    fn decode(&self) -> Step {
        let spec = self.spec(vec![("MAX_DIM", MAX_DIM as u32)], vec![self.normalize()], true);
        let mut cost = essential(self.c);
        // Query heads after the first read the state again; each of four lanes reads the values of its column.
        cost.bytes_read +=
            (self.c.qkv.group() - 1) as f64 * self.kv as f64 * (self.c.qkv.dim_k * self.c.qkv.dim_v) as f64 * 4.0;
        cost.bytes_read += 3.0 * self.key_bytes().1;
        self.step(&DECODE, spec, self.params, &[K, V, Q, STATE, O], self.kv, cost)
    }
}
