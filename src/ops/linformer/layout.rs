//! Builds the GPU program of a configuration: tiles, uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! The keys are shortened first, then the values. A workgroup computes a tile of 64 rows of the rank by up to 64
//! columns over one split of the tokens. If there are several splits, a second dispatch adds them in order. One
//! dispatch of the tiled attention core over K keys follows.
//!
//! Workspace: the projected keys and values, `K (D + E)` floats per projected head, and if tokens are split, another
//! `splits K max(D, E)` floats per projected head. There are enough splits to fill the device, but each is so long that
//! its sums are less than a quarter of what it reads.

use std::ops::Range;

use super::{Config, NAME, Pool, Projection, Sharing};
use crate::cores::attention::{self, FINAL, Mask, NO_SQUARES, PLAIN, SCALED, Tiles};
use crate::cores::lanes::lanes;
use crate::cores::rows::{KEYS_F32, ROWS as ROWS_SOURCE};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, aligned, check_indices, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths};
use crate::tensor::{DType, Layout};

params! {
    /// Must match `struct Params` in `shaders/linformer/types.wgsl`.
    struct Params {
        grid: Grid,
        keys: u32,
        rank: u32,
        kv_heads: u32,
        heads: u32,
        dim: u32,
        splits: u32,
        split_len: u32,
        units: u32,
        first_unit: u32,
        first_row: u32,
        row_tiles: u32,
        col_tiles: u32,
        end_row: u32,
        matrix_head: u32,
        matrix_base: u32,
        matrix_row: u32,
        x: Strides,
    }
}

const TYPES: Fragment = fragment!("linformer/types.wgsl");

static PROJECT: Kernel = Kernel::new(
    "linformer_project",
    &[STRIDES_SOURCE, TYPES, ROWS_SOURCE, fragment!("linformer/project.wgsl")],
    Params::UNIFORM,
    Some(attention::PROOF),
);
/// What an invocation adds up: one element, or four where rows are multiples of four.
const GROUP: [Fragment; 2] = [fragment!("linformer/groups_of_one.wgsl"), fragment!("linformer/groups_of_four.wgsl")];
/// Loads of x and of the matrix: element by element, and four elements at once.
const X: [Fragment; 2] = [fragment!("linformer/x_narrow.wgsl"), fragment!("linformer/x_wide.wgsl")];
const MATRIX: [Fragment; 2] = [fragment!("linformer/matrix_narrow.wgsl"), fragment!("linformer/matrix_wide.wgsl")];

static POOL: Kernel = Kernel::new(
    "linformer_pool",
    &[STRIDES_SOURCE, TYPES, ROWS_SOURCE, fragment!("linformer/pool.wgsl")],
    Params::UNIFORM,
    None,
);

static REDUCE: Kernel = Kernel::new(
    "linformer_reduce",
    &[STRIDES_SOURCE, TYPES, fragment!("linformer/reduce.wgsl")],
    Params::UNIFORM,
    None,
);

static ATTEND: Kernel = attention::tiled_kernel("linformer_attention", attention::PROOF);

/// Rows of the rank per tile.
const ROWS: usize = 64;
/// Groups of elements per workgroup that pools or adds up splits.
const GROUPS: usize = 64;

// Slots as in `Config::slots`, and workspace buffers in order.
const Q: Operand = Operand::Slot(0);
const O: Operand = Operand::Slot(3);
const MATRIX_E: usize = 4;
const KEYS: Operand = Operand::Workspace(0);
const VALUES: Operand = Operand::Workspace(1);
const PARTIALS: Operand = Operand::Workspace(2);

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let s = &c.qkv;
    let second = attention::essential(&c.short(), MASK);
    let [q, k, v, o] = s.elements();
    let size = s.dtype.size() as f64;
    let matrices: u64 = c.slots()[MATRIX_E..].iter().filter_map(|slot| slot.checked_bytes()).sum();
    let first = match c.projection {
        Projection::Matrices { e, f } => {
            let heads = |sharing| if sharing == Sharing::PerHead { s.heads } else { s.kv_heads };
            let columns = heads(e) * s.dim_k + heads(f.unwrap_or(e)) * s.dim_v;
            2.0 * c.rank as f64 * (s.batch * s.keys) as f64 * columns as f64
        }
        Projection::Pool(_) => k + v,
    };
    Cost {
        flops: first + second.flops,
        exps: second.exps,
        bytes_read: (q + k + v) * size + matrices as f64,
        bytes_written: o * size,
    }
}

const MASK: Mask = Mask::OPEN;

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.qkv.dtype)?;
    check_indices(NAME, &c.slots())?;
    check_lengths(NAME, &c.qkv)?;
    let s = &c.qkv;
    let e = |shared: Sharing| (MATRIX_E, shared);
    let (first, second) = match c.projection {
        Projection::Matrices { e: shared, f } => (Some(e(shared)), Some(f.map_or(e(shared), |f| (MATRIX_E + 1, f)))),
        Projection::Pool(_) => (None, None),
    };
    let keys = Half::new(c, caps, 1, s.dim_k, first);
    let values = Half::new(c, caps, 2, s.dim_v, second);
    let x = std::mem::offset_of!(Params, x);
    let mut steps = s.strided(keys.steps(KEYS)?, &[(1, x)]);
    steps.extend(s.strided(values.steps(VALUES)?, &[(2, x)]));
    // Only q and o can be strided here: this step reads the projected k and v.
    let [q, _, _, o] = attention::STRIDES;
    steps.extend(s.strided(s.cut(NAME, attention(c, caps), &s.slots(), &attention::STRIDES, caps)?, &[q, o]));

    let mut workspace = vec![
        Scratch { name: "projected keys", bytes: keys.elements(1) * 4 },
        Scratch { name: "projected values", bytes: values.elements(1) * 4 },
    ];
    let partials = [&keys, &values].iter().filter(|half| half.splits > 1).map(|half| half.elements(half.splits)).max();
    workspace.extend(partials.map(|elements| Scratch { name: "partial sums", bytes: elements * 4 }));
    check_workspace(NAME, &workspace)?;
    let tiles = Tiles::new(&c.short(), caps).describe();
    let splits = keys.splits.max(values.splits);
    let how = match c.projection {
        Projection::Matrices { .. } => "projected",
        Projection::Pool(_) => "pooled",
    };
    let variant = format!("{how} over {splits} splits of the tokens, then {tiles}");
    Ok(Program::new(NAME, variant, c.slots(), workspace, steps))
}

fn spec(dtype: DType, extra: &[Fragment], consts: Vec<(&'static str, u32)>, switch: (&'static str, u32)) -> Variant {
    Variant::new(dtype, consts, vec![switch]).with(extra)
}

/// The last dispatch: the tiled attention core over the projected keys and values.
fn attention(c: &Config, caps: &Caps) -> Step {
    let short = c.short();
    let tiles = Tiles::new(&short, caps);
    let mut params = tiles.params(&short, MASK, attention::scaled(c.effective_scale()));
    let [_, k, v, _] = short.layout(Layout::Bhnd).strides();
    (params.k, params.v) = (k, v);
    let spec = spec(c.qkv.dtype, &[SCALED, FINAL, NO_SQUARES], vec![], ("CAUSAL", 0)).with(&PLAIN);
    let (spec, narrow) = tiles.variant(&short, caps, KEYS_F32, spec);
    let cost = tiles.cost(&short, MASK, DType::F32.size());
    Step::new(&ATTEND, spec, &params, &[("q", Q), ("k", KEYS), ("v", VALUES), ("o", O)], tiles.groups(&short), cost)
        .or_narrow(narrow)
}

/// The dispatches that shorten the keys, or those that shorten the values.
struct Half<'a> {
    c: &'a Config,
    caps: &'a Caps,
    /// The slot of k or v, its head dimension, and the slot and sharing of the matrix.
    slot: usize,
    dim: usize,
    matrix: Option<(usize, Sharing)>,
    /// Number of results: batch times projected heads.
    units: usize,
    col_threads: usize,
    splits: usize,
    split_len: usize,
}

impl<'a> Half<'a> {
    fn new(c: &'a Config, caps: &'a Caps, slot: usize, dim: usize, matrix: Option<(usize, Sharing)>) -> Self {
        let units = c.qkv.batch * c.projected_heads();
        let col_threads = match dim {
            ..=16 => 4,
            17..=32 => 8,
            _ => 16,
        };
        let mut half = Self { c, caps, slot, dim, matrix, units, col_threads, splits: 1, split_len: c.qkv.keys };
        let wanted = caps.full_groups.div_ceil(half.groups(0..units, 0..c.rank)) as usize;
        // Minimum number of tokens per split: the sums of a tile are then at most a quarter of what it reads. Pooling
        // reads each token once, so its splits divide the window of a row.
        let (tokens, shortest) = match matrix {
            Some(_) => (c.qkv.keys, (8 * dim).max(256)),
            None => (c.qkv.keys / c.rank, 64),
        };
        half.splits = wanted.min(tokens / shortest).clamp(1, super::MAX_RANK);
        if matrix.is_some() {
            half.split_len = c.qkv.keys.div_ceil(half.splits).next_multiple_of(16);
            half.splits = c.qkv.keys.div_ceil(half.split_len);
        }
        half
    }

    /// Elements of `splits` results of every unit.
    fn elements(&self, splits: usize) -> u64 {
        [self.units, self.c.rank, self.dim].iter().fold(splits as u64, |n, x| n.saturating_mul(*x as u64))
    }

    fn col_tiles(&self) -> usize {
        match self.matrix {
            Some(_) => self.dim.div_ceil(4 * self.col_threads),
            None => (self.c.rank * self.dim.div_ceil(4)).div_ceil(GROUPS),
        }
    }

    fn groups(&self, units: Range<usize>, rows: Range<usize>) -> u64 {
        let row_tiles = if self.matrix.is_some() { rows.len().div_ceil(ROWS) } else { 1 };
        (units.len() * row_tiles * self.col_tiles() * self.splits) as u64
    }

    /// Elements of a row of the matrix.
    fn matrix_row(&self) -> usize {
        self.c.qkv.keys
    }

    fn pool(&self) -> u32 {
        match self.c.projection {
            Projection::Matrices { .. } => 0,
            Projection::Pool(Pool::Mean) => 1,
            Projection::Pool(Pool::Max) => 2,
        }
    }

    fn params(&self) -> Params {
        let c = self.c;
        let shared = self.matrix.is_none_or(|(_, sharing)| sharing == Sharing::AllHeads);
        Params {
            keys: c.qkv.keys as u32,
            rank: c.rank as u32,
            kv_heads: c.qkv.kv_heads as u32,
            heads: c.projected_heads() as u32,
            dim: self.dim as u32,
            splits: self.splits as u32,
            split_len: self.split_len as u32,
            units: self.units as u32,
            row_tiles: 1,
            col_tiles: self.col_tiles() as u32,
            end_row: c.rank as u32,
            matrix_head: if shared { 0 } else { (c.rank * self.matrix_row()) as u32 },
            matrix_row: self.matrix_row() as u32,
            x: c.qkv.strides()[self.slot],
            ..Params::default()
        }
    }

    /// The dispatches that shorten, and the one that adds up the splits.
    fn steps(&self, target: Operand) -> Result<Vec<Step>, Error> {
        let mut steps = Vec::new();
        let partial = if self.splits > 1 { PARTIALS } else { target };
        self.shorten(0..self.units, 0..self.c.rank, partial, &mut steps)?;
        if self.splits > 1 {
            let all = self.elements(1);
            let partials = all as f64 * self.splits as f64;
            let cost = Cost {
                flops: partials,
                bytes_read: partials * 4.0,
                bytes_written: all as f64 * 4.0,
                ..Cost::default()
            };
            let four = self.dim.is_multiple_of(4);
            let spec = spec(DType::F32, &[GROUP[usize::from(four)]], vec![], ("POOL", self.pool()));
            let groups = all.div_ceil(if four { 4 * GROUPS as u64 } else { GROUPS as u64 });
            steps.push(Step::new(
                &REDUCE,
                spec,
                &self.params(),
                &[("partials", PARTIALS), ("projected", target)],
                groups,
                cost,
            ));
        }
        Ok(steps)
    }

    /// Appends the steps for these units and rows of the rank. If a binding cannot hold the tokens or the part of the
    /// matrix that they read, units or rows are halved until it can.
    fn shorten(
        &self,
        units: Range<usize>,
        rows: Range<usize>,
        to: Operand,
        steps: &mut Vec<Step>,
    ) -> Result<(), Error> {
        let limit = self.caps.limits.max_storage_buffer_binding_size;
        let x = self.tokens_of(&units);
        let matrix = self.matrix_of(&units, &rows);
        let (x_bytes, matrix_bytes) = (x.bytes(self.c.qkv.dtype), matrix.map_or(0, |part| part.bytes(DType::F32)));
        if x_bytes <= limit && matrix_bytes <= limit {
            steps.push(self.step(units, rows, x, matrix, to));
            return Ok(());
        }
        let per_head = self.matrix.is_some_and(|(_, sharing)| sharing == Sharing::PerHead);
        if units.len() > 1 && (x_bytes > limit || per_head) {
            let middle = units.start + units.len() / 2;
            self.shorten(units.start..middle, rows.clone(), to, steps)?;
            return self.shorten(middle..units.end, rows, to, steps);
        }
        if x_bytes <= limit && rows.len() > 1 {
            let tile = if rows.len() > ROWS { ROWS } else { 1 };
            let middle = rows.start + (rows.len() / 2).next_multiple_of(tile);
            self.shorten(units.clone(), rows.start..middle, to, steps)?;
            return self.shorten(units, middle..rows.end, to, steps);
        }
        let (what, needed) = match (x_bytes > limit, self.c.qkv.layout, self.slot) {
            (true, Layout::Bhnd, 1) => ("tensor `k` (bytes of one key head)", x_bytes),
            (true, Layout::Bhnd, _) => ("tensor `v` (bytes of one key head)", x_bytes),
            (true, Layout::Bnhd, 1) => ("tensor `k` (bytes of one batch entry)", x_bytes),
            (true, Layout::Bnhd, _) => ("tensor `v` (bytes of one batch entry)", x_bytes),
            (false, ..) => ("projection (bytes of one row)", matrix_bytes),
        };
        Err(Error::Limit { op: NAME.into(), what: what.into(), needed, limit })
    }

    /// The part of k or v that these units read: their key heads, or in layout bnhd their batch entries.
    fn tokens_of(&self, units: &Range<usize>) -> Part {
        let (s, heads) = (&self.c.qkv, self.c.projected_heads());
        let key_head = |unit: usize| unit / (heads / s.kv_heads);
        let (first, last) = (key_head(units.start), key_head(units.end - 1));
        let one = (s.keys * self.dim) as u64;
        let (first, end) = match s.layout {
            Layout::Bhnd => (first, last + 1),
            Layout::Bnhd => (first / s.kv_heads * s.kv_heads, (last / s.kv_heads + 1) * s.kv_heads),
        };
        self.part(first as u64 * one, end as u64 * one, s.dtype)
    }

    /// The part of the matrix that these units and rows read.
    fn matrix_of(&self, units: &Range<usize>, rows: &Range<usize>) -> Option<Part> {
        let (_, sharing) = self.matrix?;
        let heads = self.c.projected_heads();
        let one_batch = units.start / heads == (units.end - 1) / heads;
        let (first, last) = match sharing {
            Sharing::AllHeads => (0, 0),
            Sharing::PerHead if one_batch => (units.start % heads, (units.end - 1) % heads),
            Sharing::PerHead => (0, heads - 1),
        };
        let row = |head: usize, row: usize| ((head * self.c.rank + row) * self.matrix_row()) as u64;
        Some(self.part(row(first, rows.start), row(last, rows.end), DType::F32))
    }

    fn part(&self, first: u64, end: u64, dtype: DType) -> Part {
        let first = aligned(first, dtype.size() as u64, self.caps);
        Part { first, count: end - first }
    }

    fn step(&self, units: Range<usize>, rows: Range<usize>, x: Part, matrix: Option<Part>, to: Operand) -> Step {
        let c = self.c;
        let mut params = Params {
            first_unit: units.start as u32,
            first_row: rows.start as u32,
            row_tiles: rows.len().div_ceil(ROWS) as u32,
            end_row: rows.end as u32,
            matrix_base: matrix.map_or(0, |part| part.first as u32),
            ..self.params()
        };
        params.x[3] = x.first as u32;
        let (tokens, dim, size) = (c.qkv.keys as f64, self.dim as f64, c.qkv.dtype.size() as f64);
        let (results, count) = (units.len() as f64, rows.len() as f64);
        let written = results * count * self.splits as f64 * dim * 4.0;
        let groups = self.groups(units, rows);
        let (kernel, spec, narrow, cost) = match self.matrix {
            Some(_) => {
                let (spec, narrow) = self.project();
                let row_tiles = params.row_tiles as f64;
                let cost = Cost {
                    // Rows and columns that only pad a tile are counted.
                    flops: results * 2.0 * tokens * row_tiles * (ROWS * 4 * self.col_threads * self.col_tiles()) as f64,
                    // Tokens are read once per tile of rows, the matrix once per tile of columns.
                    bytes_read: results * tokens * (dim * size * row_tiles + count * self.col_tiles() as f64 * 4.0),
                    bytes_written: written,
                    ..Cost::default()
                };
                (&PROJECT, spec, narrow, cost)
            }
            None => {
                // Neighbouring windows share a token if M is not a multiple of K.
                let window = |r: usize| ((r + 1) * c.qkv.keys).div_ceil(c.rank) - r * c.qkv.keys / c.rank;
                let tokens: usize = (0..c.rank).map(window).sum();
                let read = results * tokens as f64 * dim;
                let cost = Cost { flops: read, bytes_read: read * size, bytes_written: written, ..Cost::default() };
                let (spec, narrow) = self.by_rows(&spec(c.qkv.dtype, &[], vec![], ("POOL", self.pool())));
                (&POOL, spec, narrow, cost)
            }
        };
        let bind = |slot, part: Part| Operand::Part { slot, first: part.first, count: part.count };
        let mut operands = vec![("x", bind(self.slot, x)), ("projected", to)];
        operands.extend(self.matrix.zip(matrix).map(|((slot, _), part)| ("matrix", bind(slot, part))));
        Step::new(kernel, spec, &params, &operands, groups, cost).or_narrow(narrow)
    }

    /// The variant of the kernel that projects, and the one for odd strides of x.
    fn project(&self) -> (Variant, Option<Variant>) {
        let consts = vec![("COL_THREADS", self.col_threads as u32), ("ROWS_EACH", self.rows_each() as u32)];
        let matrix = MATRIX[usize::from(self.matrix_row().is_multiple_of(4))];
        let spec = spec(self.c.qkv.dtype, &[matrix, lanes(self.col_threads, self.caps)], consts, ("POOL", 0));
        self.by_rows(&spec)
    }

    /// The variant of a kernel that loads x: four elements at once where rows are multiples of four, and then another for odd
    /// strides.
    fn by_rows(&self, spec: &Variant) -> (Variant, Option<Variant>) {
        let [narrow, wide] = X.map(|x| spec.clone().with(&[x]));
        if self.dim.is_multiple_of(4) { (wide, Some(narrow)) } else { (narrow, None) }
    }

    /// Rows per invocation: more take fewer loads each, but few columns leave too few invocations.
    fn rows_each(&self) -> usize {
        if self.col_threads == 16 { 8 } else { 4 }
    }
}

/// A range of elements of a tensor that a step binds.
#[derive(Debug, Clone, Copy)]
struct Part {
    first: u64,
    count: u64,
}

impl Part {
    fn bytes(&self, dtype: DType) -> u64 {
        self.count * dtype.size() as u64
    }
}
