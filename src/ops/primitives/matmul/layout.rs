//! From a configuration to dispatches: tile sizes, what each dispatch binds, bytes and flops.

use std::ops::Range;

use super::{Activation, Config, NAME, Output};
use crate::cores::attention::{EXPONENTIAL, PRODUCTS};
use crate::cores::lanes::lanes;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Step, aligned, check_indices};
use crate::gpu::shader::{Fragment, HALVES_DEVICE, Kernel, UniformData, Variant, fragment, params};
use crate::tensor::{DType, Slot};

params! {
    /// Must match `struct Params` in `shaders/primitives/matmul/types.wgsl`.
    struct Params {
        grid: Grid,
        rows: u32,
        inner: u32,
        first_row: u32,
        end_row: u32,
        row_tiles: u32,
        x_base: u32,
        weight_base: u32,
        o_base: u32,
        scale: f32,
        _pad0: u32,
        _pad1: u32,
        _pad2: u32,
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

const TYPES: Fragment = fragment!("primitives/matmul/types.wgsl");
const FINISH: Fragment = fragment!("primitives/matmul/finish.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");
const NORMAL: Fragment = fragment!("lib/normal.wgsl");
const HALVES_SOFTWARE: Fragment = fragment!("lib/halves_software.wgsl");
const X_COLUMNS: Fragment = fragment!("primitives/matmul/x_columns.wgsl");
const BIAS: [Fragment; 2] = [fragment!("primitives/matmul/bias_none.wgsl"), fragment!("primitives/matmul/bias.wgsl")];
/// Loads and stores of four elements at once, and element by element.
const X: [Fragment; 2] = [fragment!("primitives/matmul/x_wide.wgsl"), fragment!("primitives/matmul/x_narrow.wgsl")];
const WEIGHT_F32: [Fragment; 2] =
    [fragment!("primitives/matmul/weight_f32_wide.wgsl"), fragment!("primitives/matmul/weight_f32_narrow.wgsl")];
const WEIGHT_F16: [Fragment; 2] =
    [fragment!("primitives/matmul/weight_f16_wide.wgsl"), fragment!("primitives/matmul/weight_f16_narrow.wgsl")];
const O: [Fragment; 2] = [fragment!("primitives/matmul/o_wide.wgsl"), fragment!("primitives/matmul/o_narrow.wgsl")];
/// The same, and what stands for a tensor that is absent.
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
const PROOF: &str = "rows and columns are clamped to those of the dispatch in the uniform, elements to those of a row; o, bias and \
                     what has the shape of o are read and written only before the ends of rows and columns; loops end at consts \
                     and uniforms";

static TILED: Kernel = Kernel::new(
    "primitives_matmul_tiled",
    &[TYPES, FINISH, PRODUCTS, fragment!("primitives/matmul/tiled.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

/// Columns of an invocation, and groups of four elements of a slice.
const COLUMNS_EACH: usize = 4;
const DIM4: usize = 4;

/// The sizes of a tile.
#[derive(Debug, Clone, Copy)]
struct Tiles {
    row_threads: usize,
    rows_each: usize,
    col_threads: usize,
}

impl Tiles {
    fn new(c: &Config, _caps: &Caps) -> Self {
        let (row_threads, rows_each, col_threads) = match c.rows {
            ..=16 => (4, 4, 32),
            17..=32 => (8, 4, 16),
            _ => (8, 8, 16),
        };
        Self { row_threads, rows_each, col_threads }
    }

    fn rows(&self) -> usize {
        self.row_threads * self.rows_each
    }

    fn columns(&self) -> usize {
        self.col_threads * COLUMNS_EACH
    }
}

/// What one dispatch computes: some rows of x by some rows of the weight, which count over all outputs.
#[derive(Debug, Clone, PartialEq)]
struct Piece {
    rows: Range<usize>,
    columns: Range<usize>,
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

    /// The variant of a kernel, but for its tiles. The numbers select among the fragments for wide and narrow loads.
    fn variant(&self, caps: &Caps) -> Variant {
        let narrow = usize::from(!self.inner.is_multiple_of(4));
        let x = if self.x_columns { X_COLUMNS } else { X[narrow] };
        let outputs = usize::from(!self.wide_outputs());
        let given = |is: bool, of: [Fragment; 3]| of[if is { outputs } else { 2 }];
        let mut fragments = vec![EXPONENTIAL, ACTIVATIONS, NORMAL];
        if self.weight == DType::F16 {
            fragments.extend([if caps.f16 { HALVES_DEVICE } else { HALVES_SOFTWARE }, WEIGHT_F16[narrow]]);
        } else {
            fragments.push(WEIGHT_F32[narrow]);
        }
        fragments.extend([x, BIAS[usize::from(self.bias)], O[outputs]]);
        fragments.extend([given(self.times, TIMES), given(self.residual, RESIDUAL)]);
        let activation = Activation::NAMED.iter().position(|(_, one)| *one == self.activation).unwrap_or(0);
        Variant::new(self.dtype, vec![], vec![("ACTIVATION", activation as u32)]).with(&fragments)
    }

    /// The tiled form of a piece.
    fn tiled(&self, piece: &Piece, tiles: &Tiles, slots: &[Slot], caps: &Caps) -> Step {
        let mut spec = self.variant(caps).with(&[lanes(tiles.col_threads, caps)]);
        let (outputs, column_tiles) = self.columns_of(piece, tiles.columns());
        spec.consts.extend([
            ("ROW_THREADS", tiles.row_threads as u32),
            ("ROWS_EACH", tiles.rows_each as u32),
            ("COL_THREADS", tiles.col_threads as u32),
            ("KEYS_EACH", COLUMNS_EACH as u32),
            ("DIM4", DIM4 as u32),
            ("ODD_DIMS", (!self.inner.is_multiple_of(4 * DIM4)).into()),
            ("OUTPUTS", outputs.len() as u32),
        ]);
        let row_tiles = piece.rows.len().div_ceil(tiles.rows());
        let (mut params, named) = self.bound(piece, &outputs, slots, caps);
        params.row_tiles = row_tiles as u32;
        let [rows, columns, k] = [piece.rows.len(), piece.columns.len(), self.inner].map(|length| length as f64);
        let (size, follow) =
            (self.dtype.size() as f64, f64::from(u8::from(self.times)) + f64::from(u8::from(self.residual)));
        // A word is loaded for each element of a weight of f16 whose rows are no multiples of four.
        let weight_size = if self.inner.is_multiple_of(4) { self.weight.size() as f64 } else { 4.0 };
        let biases = if self.bias { columns * (tiles.row_threads * row_tiles) as f64 * 4.0 } else { 0.0 };
        let groups = (row_tiles * column_tiles) as u64;
        let products = groups as f64 * (tiles.rows() * tiles.columns()) as f64;
        let cost = Cost {
            // Rows, columns and elements that only pad a tile are counted, because they take time too.
            flops: 2.0 * products * self.inner.next_multiple_of(4 * DIM4) as f64,
            exps: rows * columns * self.activation.exps(),
            bytes_read: rows * k * size * column_tiles as f64
                + columns * k * weight_size * row_tiles as f64
                + biases
                + follow * rows * columns * size,
            bytes_written: rows * columns * size,
        };
        Step::new(&TILED, spec, &params, &named, groups, cost)
    }

    /// Where a piece finds its outputs, in tiles of so many columns, and the number of these.
    fn columns_of(&self, piece: &Piece, width: usize) -> (Vec<Place>, usize) {
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
            tile += own.len().div_ceil(width);
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

/// Builds the dispatches.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    caps.require(NAME, c.dtype)?;
    let slots = c.slots();
    check_indices(NAME, &slots)?;
    let tiles = Tiles::new(c, caps);
    let pieces = c.pieces(&slots, caps)?;
    let steps: Vec<_> = pieces.iter().map(|piece| c.tiled(piece, &tiles, &slots, caps)).collect();
    let variant = format!("tiles of {} rows by {} columns", tiles.rows(), tiles.columns());
    Ok(Program::new(NAME, variant, slots, vec![], steps))
}
