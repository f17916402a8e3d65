//! From a configuration to dispatches: what each of them binds, and its fragments.

use std::ops::Range;

use super::forms::Form;
use super::{Activation, Config, NAME, Output};
use crate::cores::attention::EXPONENTIAL;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, aligned, check_indices, check_workspace};
use crate::gpu::shader::{Fragment, HALVES_DEVICE, Kernel, UniformData, Variant, fragment, params};
use crate::tensor::{DType, Slot};

params! {
    /// Must match `struct Params` in `shaders/primitives/matmul/types.wgsl`.
    pub(super) struct Params {
        grid: Grid,
        rows: u32,
        inner: u32,
        first_row: u32,
        end_row: u32,
        row_tiles: u32,
        x_base: u32,
        weight_base: u32,
        o_base: u32,
        column_tiles: u32,
        split_len: u32,
        total: u32,
        scale: f32,
        outputs: [Place; super::MAX_OUTPUTS],
    }
}

/// Where a dispatch finds an output, as `struct Output` in the shader: see there.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Place {
    tile: u32,
    first: u32,
    start: u32,
    end: u32,
    offset: u32,
    row: u32,
    column: u32,
    _pad: u32,
}

pub(super) const TYPES: Fragment = fragment!("primitives/matmul/types.wgsl");
pub(super) const DIMS: Fragment = fragment!("primitives/matmul/dims.wgsl");
/// What follows the sums, and what stands for it where K is split.
const FINISH: [Fragment; 4] = [
    EXPONENTIAL,
    fragment!("lib/activations.wgsl"),
    fragment!("lib/normal.wgsl"),
    fragment!("primitives/matmul/finish.wgsl"),
];
const PARTIAL: [Fragment; 2] =
    [fragment!("primitives/matmul/partial_wide.wgsl"), fragment!("primitives/matmul/partial_narrow.wgsl")];
const BIAS: [Fragment; 2] = [fragment!("primitives/matmul/bias_none.wgsl"), fragment!("primitives/matmul/bias.wgsl")];
/// Loads and stores of four elements at once, and element by element.
const X: [Fragment; 2] = [fragment!("primitives/matmul/x_wide.wgsl"), fragment!("primitives/matmul/x_narrow.wgsl")];
const X_COLUMNS: Fragment = fragment!("primitives/matmul/x_columns.wgsl");
const LINES: [Fragment; 2] =
    [fragment!("primitives/matmul/lines_rows.wgsl"), fragment!("primitives/matmul/lines_columns.wgsl")];
const O: [Fragment; 2] = [fragment!("primitives/matmul/o_wide.wgsl"), fragment!("primitives/matmul/o_narrow.wgsl")];
const PARTIALS: [Fragment; 2] =
    [fragment!("primitives/matmul/partials_wide.wgsl"), fragment!("primitives/matmul/partials_narrow.wgsl")];
/// The same of a weight stored as x is, of f32 beside f16, and of f16 beside f32.
const WEIGHT: [Fragment; 2] =
    [fragment!("primitives/matmul/weight_wide.wgsl"), fragment!("primitives/matmul/weight_narrow.wgsl")];
const WEIGHT_F32: [Fragment; 2] =
    [fragment!("primitives/matmul/weight_f32_wide.wgsl"), fragment!("primitives/matmul/weight_f32_narrow.wgsl")];
const WEIGHT_F16: [Fragment; 2] =
    [fragment!("primitives/matmul/weight_f16_wide.wgsl"), fragment!("primitives/matmul/weight_f16_narrow.wgsl")];
/// Chunks of the weight: four columns of any, and eight of f16.
const CHUNK_FOUR: Fragment = fragment!("primitives/matmul/chunk_four.wgsl");
const CHUNK_EIGHT: Fragment = fragment!("primitives/matmul/chunk_eight.wgsl");
const HALVES_SOFTWARE: Fragment = fragment!("lib/halves_software.wgsl");
/// Loads of what has the shape of o, and what stands for it where it is absent.
const TIMES: [Fragment; 3] = [
    fragment!("primitives/matmul/times_wide.wgsl"),
    fragment!("primitives/matmul/times_narrow.wgsl"),
    fragment!("primitives/matmul/times_none.wgsl"),
];
const RESIDUAL: [Fragment; 3] = [
    fragment!("primitives/matmul/residual_wide.wgsl"),
    fragment!("primitives/matmul/residual_narrow.wgsl"),
    fragment!("primitives/matmul/residual_none.wgsl"),
];

/// Why every index is within bounds.
pub(super) const PROOF: &str = "rows and columns are clamped to those of the dispatch in the uniform, elements to those of a row; o, bias, partials and \
     what has the shape of o are read and written only before the ends of rows and columns; loops end at consts and uniforms";

static MERGE: Kernel = Kernel::new(
    "primitives_matmul_merge",
    &[TYPES, fragment!("primitives/matmul/merge.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

/// Elements of o that a workgroup of the merge has, in groups of four.
const MERGE_FOURS: usize = 64;

/// The fragments of a variant, and its overrides.
pub(super) struct Fragments {
    pub(super) list: Vec<Fragment>,
    pub(super) overrides: Vec<(&'static str, u32)>,
}

/// What one dispatch computes: some rows of x by some rows of the weight, which count over all outputs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    /// The only output of the piece, if it binds that alone.
    alone: Option<usize>,
}

/// Splits a range into parts of at most so many elements.
fn parts(range: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let Range { start, end } = range.clone();
    (start..end).step_by(most).map(move |from| from..(from + most).min(end))
}

/// Rows or columns of which one binding holds all, `each` bytes per row: as many whole tiles as fit, at least one group of four.
fn most(name: &str, all: usize, each: u64, limit: u64) -> Result<usize, Error> {
    // A binding starts at an aligned byte, up to one alignment before the first row.
    let fits = usize::try_from(limit.saturating_sub(super::ALIGN as u64) / each.max(1)).unwrap_or(usize::MAX);
    match fits {
        _ if (all as u64).saturating_mul(each) <= limit => Ok(all),
        128.. => Ok(fits / 128 * 128),
        4.. => Ok(fits / 4 * 4),
        _ => {
            let what = format!("tensor `{name}` (bytes of four rows)");
            Err(Error::Limit { op: NAME.into(), what, needed: 4 * each, limit })
        }
    }
}

impl Config {
    /// The dispatches: one if every tensor fits into a binding.
    fn pieces(&self, slots: &[Slot], caps: &Caps) -> Result<Vec<Piece>, Error> {
        let limit = caps.limits.max_storage_buffer_binding_size;
        let bytes = |name: &str| {
            let slot = slots.iter().find(|slot| slot.name == name);
            slot.and_then(Slot::checked_bytes).unwrap_or(0)
        };
        let whole = Piece { rows: 0..self.rows, columns: 0..self.width(), alone: None };
        if ["x", "weight", "o"].into_iter().all(|name| bytes(name) <= limit) {
            return Ok(vec![whole]);
        }
        let (size, k) = (self.dtype.size() as u64, self.inner as u64);
        if self.x_columns && bytes("x") > limit {
            let what = "tensor `x` (bytes in one binding)".into();
            return Err(Error::Limit { op: NAME.into(), what, needed: bytes("x"), limit });
        }
        let mut pieces = Vec::new();
        let groups = if bytes("o") > limit {
            self.places().map(|(at, range)| (Some(at), range)).collect()
        } else {
            vec![(None, 0..self.width())]
        };
        for (alone, columns) in groups {
            let mut rows_most = if self.x_columns { self.rows } else { most("x", self.rows, k * size, limit)? };
            let mut columns_most = most("weight", columns.len(), k * self.weight.size() as u64, limit)?;
            match alone.map(|at| self.outputs[at]) {
                Some(Output { columns: true, .. }) => {
                    columns_most = columns_most.min(most("o", columns.len(), self.rows as u64 * size, limit)?);
                }
                Some(Output { width, .. }) => {
                    rows_most = rows_most.min(most("o", self.rows, width as u64 * size, limit)?);
                }
                None => {}
            }
            for columns in parts(&columns, columns_most) {
                pieces.extend(parts(&(0..self.rows), rows_most).map(|rows| Piece {
                    rows,
                    columns: columns.clone(),
                    alone,
                }));
            }
        }
        Ok(pieces)
    }

    /// The rows of the weight of each output.
    fn places(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let start = |at: usize| self.outputs[..at].iter().map(|output| output.width).sum::<usize>();
        (0..self.outputs.len()).map(move |at| (at, start(at)..start(at + 1)))
    }

    /// Whether elements that lie side by side in o come in groups of four.
    fn wide_outputs(&self) -> bool {
        self.outputs.iter().all(|o| if o.columns { self.rows } else { o.width }.is_multiple_of(4))
    }

    /// Columns of a piece that lie in outputs with their columns first.
    fn turned(&self, piece: &Piece) -> usize {
        let own = |range: &Range<usize>| {
            range.end.min(piece.columns.end).saturating_sub(range.start.max(piece.columns.start))
        };
        self.places().filter(|(at, _)| self.outputs[*at].columns).map(|(_, range)| own(&range)).sum()
    }

    /// Elements of the bias that are read for four neighbouring elements of o at a time.
    pub(super) fn biases_by_fours(&self, piece: &Piece) -> f64 {
        let (rows, turned) = (piece.rows.len(), self.turned(piece));
        ((piece.columns.len() - turned) * rows + turned * rows.div_ceil(4)) as f64
    }

    /// What follows the sums, with stores of four elements at once or element by element.
    fn finishing(&self, narrow: usize) -> Fragments {
        let given = |is: bool, of: [Fragment; 3]| of[if is { narrow } else { 2 }];
        let mut list = FINISH.to_vec();
        list.extend([
            O[narrow],
            given(self.times, TIMES),
            given(self.residual, RESIDUAL),
            BIAS[usize::from(self.bias)],
        ]);
        let activation = Activation::NAMED.iter().position(|(_, one)| *one == self.activation).unwrap_or(0);
        Fragments { list, overrides: vec![("ACTIVATION", activation as u32)] }
    }

    /// The fragments of a form, which finishes the products or stores the sums of a split.
    fn fragments(&self, form: &Form, split: bool, caps: &Caps) -> Fragments {
        let narrow = usize::from(!self.inner.is_multiple_of(4));
        let few = matches!(form, Form::Vector { .. });
        let outputs = usize::from(few || !self.wide_outputs());
        let mut fragments = if split {
            Fragments { list: vec![PARTIAL[outputs], BIAS[0]], overrides: vec![] }
        } else {
            self.finishing(outputs)
        };
        let list = &mut fragments.list;
        list.push(if self.x_columns { X_COLUMNS } else { X[narrow] });
        if !few {
            list.push(LINES[usize::from(self.x_columns)]);
        }
        let halves = if caps.f16 { HALVES_DEVICE } else { HALVES_SOFTWARE };
        if matches!(form, Form::Vector { chunk: 8, .. }) {
            list.extend([halves, CHUNK_EIGHT]);
            return fragments;
        }
        match (self.dtype, self.weight) {
            (DType::F32, DType::F16) => list.extend([halves, WEIGHT_F16[narrow]]),
            (DType::F16, DType::F32) => list.push(WEIGHT_F32[narrow]),
            _ => list.push(WEIGHT[narrow]),
        }
        list.extend(few.then_some(CHUNK_FOUR));
        fragments
    }

    /// Work of what follows the sums of a piece, without its bias.
    fn finishing_cost(&self, piece: &Piece) -> Cost {
        let elements = (piece.rows.len() * piece.columns.len()) as f64;
        let follow = usize::from(self.times) + usize::from(self.residual);
        let bytes = elements * self.dtype.size() as f64;
        Cost {
            exps: elements * self.activation.exps(),
            bytes_read: bytes * follow as f64,
            bytes_written: bytes,
            ..Cost::default()
        }
    }

    /// The dispatch of a piece, and where K is split the one that adds the splits up.
    fn steps(
        &self,
        piece: &Piece,
        form: &Form,
        [splits, split_len]: [usize; 2],
        slots: &[Slot],
        caps: &Caps,
    ) -> Vec<Step> {
        let [tile_rows, tile_columns] = form.tile();
        let (outputs, column_tiles) = self.columns_of(piece, |output| output.div_ceil(tile_columns));
        let row_tiles = piece.rows.len().div_ceil(tile_rows);
        let (mut params, mut named) = self.bound(piece, &outputs, slots, caps);
        named.push(("partials", Operand::Workspace(0)));
        params.row_tiles = row_tiles as u32;
        params.column_tiles = column_tiles as u32;
        params.split_len = split_len as u32;
        params.total = total(slots) as u32;
        let fragments = self.fragments(form, splits > 1, caps);
        let (kernel, spec) = form.kernel(self, &fragments, outputs.len(), caps);
        let sums = form.cost(self, piece, [row_tiles, column_tiles]);
        let groups = (row_tiles * column_tiles * splits) as u64;
        let finish = self.finishing_cost(piece);
        if splits == 1 {
            let biases = if self.bias { form.biases(self, piece, row_tiles) * 4.0 } else { 0.0 };
            let cost = Cost { bytes_read: sums.bytes_read + finish.bytes_read + biases, ..sums + finish };
            return vec![Step::new(kernel, spec, &params, &named, groups, cost)];
        }
        let partials = (piece.rows.len() * piece.columns.len() * splits) as f64;
        let first = Step::new(kernel, spec, &params, &named, groups, Cost { bytes_written: partials * 4.0, ..sums });
        let fours = |output: usize, turned: bool| {
            if turned { output * self.rows.div_ceil(4) } else { self.rows * output.div_ceil(4) }
        };
        let mut groups = 0;
        for (place, output) in params.outputs.iter_mut().zip(&self.outputs) {
            place.tile = groups as u32;
            groups += fours(output.width, output.columns).div_ceil(MERGE_FOURS);
        }
        let narrow = usize::from(!self.wide_outputs());
        let mut fragments = self.finishing(narrow);
        fragments.list.push(PARTIALS[narrow]);
        let consts = vec![("SPLITS", splits as u32), ("OUTPUTS", outputs.len() as u32)];
        let spec = Variant::new(self.dtype, consts, fragments.overrides).with(&fragments.list);
        let biases = if self.bias { self.biases_by_fours(piece) * 4.0 } else { 0.0 };
        let cost = Cost { flops: partials, bytes_read: finish.bytes_read + partials * 4.0 + biases, ..finish };
        vec![first, Step::new(&MERGE, spec, &params, &named, groups as u64, cost)]
    }

    /// Where a piece finds its outputs, in tiles of which an output of so many columns has `tiles`, and the number of these.
    fn columns_of(&self, piece: &Piece, tiles: impl Fn(usize) -> usize) -> (Vec<Place>, usize) {
        let mut tile = 0;
        let mut outputs = Vec::new();
        for ((at, range), part) in self.places().zip(self.parts()) {
            let own = range.start.max(piece.columns.start)..range.end.min(piece.columns.end);
            if own.is_empty() || piece.alone.is_some_and(|alone| alone != at) {
                continue;
            }
            let (row, column) = if self.outputs[at].columns { (1, self.rows) } else { (range.len(), 1) };
            outputs.push(Place {
                tile: tile as u32,
                first: range.start as u32,
                start: (own.start - range.start) as u32,
                end: (own.end - range.start) as u32,
                offset: part.offset as u32,
                row: row as u32,
                column: column as u32,
                _pad: 0,
            });
            tile += tiles(own.len());
        }
        (outputs, tile)
    }

    /// The uniform of a piece and what it binds.
    fn bound(&self, piece: &Piece, outputs: &[Place], slots: &[Slot], caps: &Caps) -> (Params, Vec<Named>) {
        let mut params = Params {
            rows: self.rows as u32,
            inner: self.inner as u32,
            first_row: piece.rows.start as u32,
            end_row: piece.rows.end as u32,
            scale: self.scale,
            ..Params::default()
        };
        params.outputs[..outputs.len()].copy_from_slice(outputs);
        // The rows of a matrix that a piece needs, `each` elements per row, in front of which lie `before`.
        let part = |at: usize, range: &Range<usize>, all: usize, each: usize, before: usize, base: &mut u32| {
            let slot = &slots[at];
            if range.len() == all && before == 0 && slot.parts.len() == 1 {
                return Operand::Slot(at);
            }
            let first = aligned((before + range.start * each) as u64, slot.dtype.size() as u64, caps);
            *base = first as u32;
            Operand::Part { slot: at, first, count: (before + range.end * each) as u64 - first }
        };
        let mut named = Vec::new();
        for (at, slot) in slots.iter().enumerate() {
            let operand = match slot.name {
                "x" if !self.x_columns => part(at, &piece.rows, self.rows, self.inner, 0, &mut params.x_base),
                "weight" => part(at, &piece.columns, self.width(), self.inner, 0, &mut params.weight_base),
                "o" | "times" | "residual" => match piece.alone {
                    None => Operand::Slot(at),
                    Some(alone) => {
                        let Place { start, end, offset, .. } = outputs[0];
                        let Output { width, columns } = self.outputs[alone];
                        let before = offset as usize;
                        if columns {
                            let range = start as usize..end as usize;
                            part(at, &range, width, self.rows, before, &mut params.o_base)
                        } else {
                            part(at, &piece.rows, self.rows, width, before, &mut params.o_base)
                        }
                    }
                },
                _ => Operand::Slot(at),
            };
            named.push((slot.name, operand));
        }
        (params, named)
    }
}

/// Elements of o, rounded up to groups of four.
fn total(slots: &[Slot]) -> u64 {
    let o = slots.iter().find(|slot| slot.name == "o").and_then(Slot::checked_count);
    o.unwrap_or(u64::MAX).next_multiple_of(4)
}

/// Builds the dispatches.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    caps.require(NAME, c.dtype)?;
    let slots = c.slots();
    check_indices(NAME, &slots)?;
    for (tensor, what, length) in [("x", "rows", c.rows), ("x", "columns", c.inner), ("weight", "rows", c.width())] {
        let (needed, limit) = (length as u64, 1 << 30);
        if needed > limit {
            return Err(Error::Limit { op: NAME.into(), what: format!("tensor `{tensor}` ({what})"), needed, limit });
        }
    }
    let form = Form::new(c, caps);
    let pieces = c.pieces(&slots, caps)?;
    let [tile_rows, tile_columns] = form.tile();
    let groups =
        |piece: &Piece| piece.rows.len().div_ceil(tile_rows) * c.columns_of(piece, |n| n.div_ceil(tile_columns)).1;
    let split = match &pieces[..] {
        [whole] => {
            let most = (caps.largest_binding() / 4).min(u32::MAX.into()) / total(&slots);
            form.splits(c, groups(whole) as u64, most, caps)
        }
        _ => [1, c.inner],
    };
    let mut workspace = Vec::new();
    if split[0] > 1 {
        workspace.push(Scratch { name: "sums of splits", bytes: split[0] as u64 * total(&slots) * 4 });
    }
    check_workspace(NAME, &workspace)?;
    let steps = pieces.iter().flat_map(|piece| c.steps(piece, &form, split, &slots, caps)).collect();
    Ok(Program::new(NAME, form.describe(split[0]), slots, workspace, steps))
}
