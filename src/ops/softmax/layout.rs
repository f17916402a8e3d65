//! From a configuration to tiles, uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! Two forms. Many queries: one dispatch of the tiled core (see `attend`), no workspace. Eight rows a key head or fewer, or
//! more that leave the machine idle before a long cache: keys are split over workgroups of 128, each of which leaves a
//! maximum, a sum and E partial outputs a row, put together in their order by a second dispatch; keys and values are read
//! once for every eight rows.

use super::{Config, NAME};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices};
use crate::gpu::source::{Bind, COUNT_OFF, Kernel, Source, Spec, source};
use crate::ops::Operator;
use crate::ops::attend::{CORE, FIELDS, KEYS_STORED, LOADS, PROOF, Params, STRIDES, TYPES, Tiles};
use crate::ops::qkv::{STRIDES_SOURCE, check_lengths};

const TENSORS: Source = source!("softmax/types.wgsl");

static ATTEND: Kernel = Kernel {
    name: "softmax_attend",
    sources: &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, CORE, source!("softmax/attend.wgsl")],
    bindings: &[("q", Bind::Read), ("k", Bind::Read), ("v", Bind::Read), ("o", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: Some(PROOF),
};

static SPLIT: Kernel = Kernel {
    name: "softmax_split",
    sources: &[STRIDES_SOURCE, TYPES, TENSORS, LOADS, source!("softmax/split.wgsl")],
    bindings: &[("q", Bind::Read), ("k", Bind::Read), ("v", Bind::Read), ("partials", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: None,
};

static MERGE: Kernel = Kernel {
    name: "softmax_merge",
    sources: &[STRIDES_SOURCE, TYPES, source!("softmax/merge.wgsl")],
    bindings: &[("partials", Bind::Read), ("o", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: None,
};

/// Keys of a workgroup where they are split.
const SPLIT_KEYS: usize = 128;
/// Columns of a workgroup that puts splits together.
const MERGE_COLUMNS: usize = 64;

// Order of the slots in `Qkv::slots`, then of the workspace.
const Q: Operand = Operand::Slot(0);
const K: Operand = Operand::Slot(1);
const V: Operand = Operand::Slot(2);
const O: Operand = Operand::Slot(3);
const PARTIALS: Operand = Operand::Workspace(0);

/// Whether keys are split over workgroups: where a key head has so few rows that a block of the core would be mostly
/// empty, or where blocks alone leave the machine idle and each has a long cache to walk; and only if one binding can
/// hold the partial outputs.
fn splits(c: &Config, caps: &Caps) -> bool {
    let rows = c.qkv.queries.saturating_mul(c.qkv.group());
    let idle = 4 * Tiles::new(&c.qkv).groups(&c.qkv) <= caps.full_groups;
    let few = rows <= 8 || (idle && rows <= 256 && c.qkv.keys - first_key(c) >= 16 * rows);
    few && partials(c).saturating_mul(4) <= caps.largest_binding().min(4 * u64::from(u32::MAX))
}

/// The first key that any query sees: from it to the last, all are seen.
fn first_key(c: &Config) -> usize {
    c.mask().keys(&c.qkv, 0).start.min(c.qkv.keys - 1)
}

/// Elements of the partial outputs: for every row and split E of them, a maximum and a sum.
fn partials(c: &Config) -> u64 {
    let s = &c.qkv;
    let rows = (s.batch * s.heads) as u64 * s.queries as u64;
    rows.saturating_mul((s.keys - first_key(c)).div_ceil(SPLIT_KEYS) as u64).saturating_mul(s.dim_v as u64 + 2)
}

/// What a GPU has to do.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.qkv.dtype)?;
    check_indices(NAME, &c.slots())?;
    check_lengths(NAME, &c.qkv)?;
    let (variant, workspace, steps) = if splits(c, caps) { split(c) } else { tiled(c) };
    let mut pieces = Vec::new();
    for step in steps {
        pieces.extend(c.qkv.cut(NAME, step, STRIDES, caps)?);
    }
    Ok(Program::new(NAME, variant, c.slots(), workspace, pieces))
}

type Parts = (String, Vec<Scratch>, Vec<Step>);

fn step(c: &Config, kernel: &'static Kernel, consts: Vec<(&'static str, u32)>, params: Params) -> Step {
    let spec = Spec {
        elem: c.qkv.dtype,
        fragments: vec![COUNT_OFF, KEYS_STORED],
        consts,
        overrides: vec![("CAUSAL", c.causal.into())],
    };
    let params = bytemuck::bytes_of(&params).to_vec();
    Step { kernel, spec, params, operands: Vec::new(), first: 0, groups: 0, cost: Cost::default() }
}

fn tiled(c: &Config) -> Parts {
    let (s, tiles) = (&c.qkv, Tiles::new(&c.qkv));
    let params = tiles.params(s, c.mask(), c.effective_scale());
    let step = Step {
        operands: vec![Q, K, V, O],
        groups: tiles.groups(s),
        cost: tiles.cost(s, c.mask(), s.dtype.size()),
        ..step(c, &ATTEND, tiles.consts(), params)
    };
    (tiles.describe(), Vec::new(), vec![step])
}

fn split(c: &Config) -> Parts {
    let (s, mask) = (&c.qkv, c.mask());
    let rows = s.queries * s.group();
    let split_rows = rows.next_power_of_two().min(8);
    let row_blocks = rows.div_ceil(split_rows);
    // Keys before the first that any query sees are not touched.
    let first = first_key(c);
    let seen = s.keys - first;
    let splits = seen.div_ceil(SPLIT_KEYS);
    let col_splits = s.dim_v.div_ceil(MERGE_COLUMNS);
    let all_rows = s.batch * s.heads * s.queries;
    let elements = partials(c);
    let mut params = Tiles::new(s).params(s, mask, c.effective_scale());
    params.row_blocks = row_blocks as u32;
    params.col_splits = col_splits as u32;
    params.splits = splits as u32;
    params.first_key = first as u32;
    let (units, size) = (s.kv_units() as f64, s.dtype.size() as f64);
    let (d, e) = (s.dim_k as f64, s.dim_v as f64);
    let partial = elements as f64 * 4.0;
    let own = Step {
        operands: vec![Q, K, V, PARTIALS],
        groups: (s.kv_units() * row_blocks * splits) as u64,
        cost: Cost {
            flops: units * (row_blocks * split_rows * splits * SPLIT_KEYS) as f64 * 2.0 * (d + e),
            exps: units * (row_blocks * split_rows * splits * SPLIT_KEYS) as f64,
            bytes_read: (units * (row_blocks * seen) as f64 * (d + e) + units * (rows * splits) as f64 * d) * size,
            bytes_written: partial,
        },
        ..step(c, &SPLIT, vec![("SPLIT_ROWS", split_rows as u32)], params)
    };
    let merge = Step {
        operands: vec![PARTIALS, O],
        groups: (all_rows * col_splits) as u64,
        cost: Cost {
            flops: (all_rows * splits) as f64 * e * 4.0,
            exps: (all_rows * splits) as f64 * e * 2.0,
            // Every column reads the maximum and the sum.
            bytes_read: (all_rows * splits) as f64 * e * 3.0 * 4.0,
            bytes_written: all_rows as f64 * e * size,
        },
        ..step(c, &MERGE, vec![], params)
    };
    let variant = format!("{splits} splits of {SPLIT_KEYS} keys, {split_rows} rows a workgroup");
    let workspace = vec![Scratch { name: "partial outputs", bytes: elements * 4 }];
    (variant, workspace, vec![own, merge])
}
