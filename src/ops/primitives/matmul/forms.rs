//! The forms of a product on a GPU: which a shape takes, tile sizes, and the work and bytes of each.

use super::Config;
use super::layout::{DIMS, Fragments, PROOF, Params, Piece, TYPES};
use crate::cores::lanes::{lanes, reducing};
use crate::cores::matrix::{self, SUBGROUPS};
use crate::gpu::program::Cost;
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::gpu::{Caps, Matrix};
use crate::tensor::DType;

const TILE: Fragment = fragment!("primitives/matmul/tile.wgsl");

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(PROOF))
}

static VECTOR: Kernel = kernel("primitives_matmul_vector", &[TYPES, DIMS, fragment!("primitives/matmul/vector.wgsl")]);

static TILED: Kernel = kernel(
    "primitives_matmul_tiled",
    &[TYPES, DIMS, TILE, fragment!("lib/products.wgsl"), fragment!("primitives/matmul/tiled.wgsl")],
);

static MATRIX: Kernel =
    kernel("primitives_matmul_matrix", &[TYPES, DIMS, TILE, fragment!("primitives/matmul/matrix.wgsl")]);

/// Rows up to which the form for few rows is taken.
const FEW_ROWS: usize = 8;
/// Invocations of a workgroup of that form, sums that they add up together, and chunks of a row that each loads at once at most.
const VECTOR_INVOCATIONS: usize = 64;
const VECTOR_SUMS: usize = 16;
const MOST_BATCH: usize = 4;
/// Columns of an invocation of the tiled form, and groups of four elements of a slice.
const COLUMNS_EACH: usize = 4;
const DIM4: usize = 4;
/// Groups of four elements of a slice of the form for matrix units.
const MATRIX_DIM4: usize = 8;
/// The fewest rows for matrix units: with fewer, most of a tile would be empty.
const FEWEST_MATRIX_ROWS: usize = 32;
/// The fewest columns of x in a split: its sums are written and read again.
const FEWEST_SPLIT: usize = 256;

/// A form with its sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// All rows of x by a few rows of the weight, straight from memory.
    Vector { x_rows: usize, columns: usize, chunk: usize, batch: usize },
    /// Tiles by registers.
    Tiled { row_threads: usize, rows_each: usize, col_threads: usize },
    /// Tiles by matrix units: matrices of a subgroup along rows and columns.
    Matrix { units: Matrix, row_tiles: usize, column_tiles: usize },
}

impl Form {
    /// The form for a shape on a device.
    pub(super) fn new(c: &Config, caps: &Caps) -> Self {
        if c.rows <= FEW_ROWS {
            return Self::vector(c, caps);
        }
        if let Some(form) = Self::matrix(c, caps) {
            return form;
        }
        let (row_threads, rows_each, col_threads) = match c.rows {
            ..=16 => (4, 4, 32),
            17..=32 => (8, 4, 16),
            _ => (8, 8, 16),
        };
        Self::Tiled { row_threads, rows_each, col_threads }
    }

    fn vector(c: &Config, caps: &Caps) -> Self {
        let x_rows = c.rows.next_power_of_two();
        // Fewer rows of the weight for each workgroup, where there are too few workgroups.
        let groups = |columns: usize| c.outputs.iter().map(|output| output.width.div_ceil(columns) as u64).sum::<u64>();
        let mut columns = (VECTOR_SUMS / x_rows).min(4);
        while columns > 1 && groups(columns) < caps.full_groups {
            columns /= 2;
        }
        let chunk = if c.weight == DType::F16 && c.inner.is_multiple_of(8) { 8 } else { 4 };
        let steps = c.inner.div_ceil(chunk * VECTOR_INVOCATIONS);
        // As many at once as leave the fewest over.
        let batch = (1..=MOST_BATCH).min_by_key(|batch| (steps.next_multiple_of(*batch), MOST_BATCH - batch));
        Self::Vector { x_rows, columns, chunk, batch: batch.unwrap_or(1) }
    }

    fn matrix(c: &Config, caps: &Caps) -> Option<Self> {
        let units = caps.matrix?;
        // A compiler would take minutes for the emulation of more.
        let per_subgroup = if units.emulated { 2 } else { 32 / units.tile as usize };
        let form = Self::Matrix { units, row_tiles: per_subgroup, column_tiles: per_subgroup };
        let fits = matrix::fits(units, MATRIX_DIM4, form.workgroup_bytes(), caps);
        let suits = c.dtype == DType::F16 && c.weight == DType::F16 && c.rows >= FEWEST_MATRIX_ROWS;
        (fits && suits).then_some(form)
    }

    /// Rows of x and of the weight that a workgroup has.
    pub(super) fn tile(&self) -> [usize; 2] {
        match *self {
            Self::Vector { x_rows, columns, .. } => [x_rows, columns],
            Self::Tiled { row_threads, rows_each, col_threads } => {
                [row_threads * rows_each, col_threads * COLUMNS_EACH]
            }
            Self::Matrix { units, row_tiles, column_tiles } => {
                [row_tiles, column_tiles].map(|tiles| SUBGROUPS / 2 * tiles * units.tile as usize)
            }
        }
    }

    /// Columns of x that a workgroup takes at once.
    fn slice(&self) -> usize {
        match *self {
            Self::Vector { chunk, batch, .. } => chunk * VECTOR_INVOCATIONS * batch,
            Self::Tiled { .. } => 4 * DIM4,
            Self::Matrix { .. } => 4 * MATRIX_DIM4,
        }
    }

    /// Splits of K, at most so many, and the columns of x of each: more than one where `groups` tiles alone would leave the
    /// device idle.
    pub(super) fn splits(&self, c: &Config, groups: u64, most: u64, caps: &Caps) -> [usize; 2] {
        let most = match self {
            Self::Vector { .. } => 1,
            _ => (caps.full_groups / groups.max(1)).min((c.inner / FEWEST_SPLIT) as u64).min(most).max(1) as usize,
        };
        let len = c.inner.div_ceil(most).next_multiple_of(self.slice());
        [c.inner.div_ceil(len), len]
    }

    /// Bytes of workgroup memory of the form for matrix units.
    fn workgroup_bytes(&self) -> usize {
        let Self::Matrix { units, .. } = self else { return 0 };
        let [rows, columns] = self.tile();
        (rows + columns) * (MATRIX_DIM4 + 2) * 8 + 2 * units.tile as usize * (columns / 4 + 1) * 16
    }

    /// The kernel, and its variant for so many outputs.
    pub(super) fn kernel(
        &self,
        c: &Config,
        fragments: &Fragments,
        outputs: usize,
        caps: &Caps,
    ) -> (&'static Kernel, Variant) {
        let mut consts =
            vec![("OUTPUTS", outputs as u32), ("ODD_DIMS", (!c.inner.is_multiple_of(self.slice())).into())];
        let overrides = fragments.overrides.clone();
        let variant = |consts| Variant::new(c.dtype, consts, overrides).with(&fragments.list);
        match *self {
            Self::Vector { x_rows, columns, batch, .. } => {
                consts.extend([("X_ROWS", x_rows as u32), ("COLUMNS", columns as u32), ("BATCH", batch as u32)]);
                (&VECTOR, reducing(variant(consts), VECTOR_INVOCATIONS, caps))
            }
            Self::Tiled { row_threads, rows_each, col_threads } => {
                consts.extend([
                    ("ROW_THREADS", row_threads as u32),
                    ("ROWS_EACH", rows_each as u32),
                    ("COL_THREADS", col_threads as u32),
                    ("KEYS_EACH", COLUMNS_EACH as u32),
                    ("DIM4", DIM4 as u32),
                ]);
                (&TILED, variant(consts).with(&[lanes(col_threads, caps)]))
            }
            Self::Matrix { units, row_tiles, column_tiles } => {
                let (own, products) = matrix::products(units);
                consts.extend(own);
                consts.extend([("ROW_TILES", row_tiles as u32), ("COLUMN_TILES", column_tiles as u32)]);
                (&MATRIX, variant(consts).with(products))
            }
        }
    }

    /// Work of a piece in so many tiles of rows and of columns, but for what follows the sums.
    pub(super) fn cost(&self, c: &Config, piece: &Piece, [row_tiles, column_tiles]: [usize; 2]) -> Cost {
        let [rows, columns, k] = [piece.rows.len(), piece.columns.len(), c.inner].map(|length| length as f64);
        let [tile_rows, tile_columns] = self.tile();
        let products = (row_tiles * column_tiles * tile_rows * tile_columns) as f64;
        // A word is loaded for each element of a weight of f16 beside x of f32 whose rows are no multiples of four.
        let words = c.weight == DType::F16 && c.dtype == DType::F32 && !c.inner.is_multiple_of(4);
        let weight = if words { 4.0 } else { c.weight.size() as f64 };
        Cost {
            // Rows, columns and elements that only pad a tile are counted, because they take time too.
            flops: 2.0 * products * c.inner.next_multiple_of(self.slice()) as f64,
            exps: 0.0,
            bytes_read: rows * k * c.dtype.size() as f64 * column_tiles as f64
                + columns * k * weight * row_tiles as f64,
            bytes_written: 0.0,
        }
    }

    /// Elements of the bias that a piece reads, in so many tiles of rows.
    pub(super) fn biases(&self, c: &Config, piece: &Piece, row_tiles: usize) -> f64 {
        let (rows, columns) = (piece.rows.len(), piece.columns.len());
        match *self {
            Self::Vector { .. } => (rows * columns) as f64,
            Self::Tiled { row_threads, .. } => (columns * row_threads * row_tiles) as f64,
            Self::Matrix { .. } => c.biases_by_fours(piece),
        }
    }

    /// Describes the form, for people.
    pub(super) fn describe(&self, splits: usize) -> String {
        let [rows, columns] = self.tile();
        let split = if splits > 1 { format!(", K in {splits} parts") } else { String::new() };
        match *self {
            Self::Vector { columns, .. } => format!("{columns} rows of the weight a workgroup"),
            Self::Tiled { .. } => format!("tiles of {rows} rows by {columns} columns{split}"),
            Self::Matrix { units, .. } => {
                format!("{}, tiles of {rows} rows by {columns} columns{split}", matrix::describe(units))
            }
        }
    }
}
