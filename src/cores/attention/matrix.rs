//! The form of the core for matrix units: when it is chosen, its dispatch, bytes and flops. It is for f16 storage, because the
//! units multiply f16.

use super::{Attention, BLOCK, Mask, NO_SQUARES, PROOF, Params, Parts, SQUARES, TYPES, Tiles};
use crate::cores::lanes::lanes;
use crate::cores::matrix::{self, SUBGROUPS};
use crate::cores::rows::{K, KEYS_STORED, O, OUTPUTS_STORED, Q, ROWS as LOADS, V, rows};
use crate::gpu::program::{Cost, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, fragment};
use crate::gpu::{Caps, Matrix};
use crate::operator::qkv::{Qkv, STRIDES_SOURCE};
use crate::tensor::DType;

const CORE: Fragment = fragment!("cores/attention/matrix.wgsl");
/// Loads of f16 as they are: four elements at once, and element by element.
const WIDE: Fragment = fragment!("cores/attention/matrix_rows_wide.wgsl");
const NARROW: Fragment = fragment!("cores/attention/matrix_rows_narrow.wgsl");
/// The counterparts of the tiled form's fragments.
const MATRIX_SQUARES: Fragment = fragment!("cores/attention/matrix_squares.wgsl");
const MATRIX_NO_SQUARES: Fragment = fragment!("cores/attention/matrix_no_squares.wgsl");

/// Rows per workgroup, and keys per tile.
const ROWS: usize = 64;
const KEYS: usize = 32;

/// The largest D and E: a subgroup holds its queries and outputs in registers.
const LARGEST: usize = 128;

/// The fewest rows per key head: with fewer, most of a block would be empty.
const FEWEST_ROWS: usize = 32;

/// The form for matrix units. A variant brings the same fragments as for [`super::tiled_kernel`].
pub(crate) const fn matrix_kernel(name: &'static str) -> Kernel {
    let sources = &[STRIDES_SOURCE, TYPES, LOADS, OUTPUTS_STORED, BLOCK, CORE];
    Kernel { entry: "attention_matrix", ..Kernel::new(name, sources, Params::UNIFORM, Some(PROOF)) }
}

/// The sizes of the form for a shape and a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrices {
    units: Matrix,
    /// Matrices along D, and along E.
    dim_tiles: usize,
    column_tiles: usize,
    /// Whether D and E are multiples of a matrix.
    whole: bool,
}

impl Matrices {
    /// The form, if the device has it and the run suits it.
    pub(super) fn new(run: &Attention<'_>, caps: &Caps) -> Option<Self> {
        let (s, units) = (run.qkv, caps.matrix?);
        let tile = units.tile as usize;
        let [dim_tiles, column_tiles] = [s.dim_k, s.dim_v].map(|dim| dim.div_ceil(tile));
        let whole = s.dim_k.is_multiple_of(tile) && s.dim_v.is_multiple_of(tile);
        let form = Self { units, dim_tiles, column_tiles, whole };
        // Invocations share the 32 keys of a tile evenly.
        let fits = matrix::fits(units, KEYS / SUBGROUPS, form.workgroup_bytes(), caps);
        let suits = s.dtype == DType::F16
            && !run.extras.has_pairs()
            && s.dim_k.max(s.dim_v) <= LARGEST
            && s.queries.saturating_mul(s.group()) >= FEWEST_ROWS;
        (suits && fits).then_some(form)
    }

    fn invocations(&self) -> usize {
        matrix::invocations(self.units)
    }

    /// Invocations that share a row.
    fn parts(&self) -> usize {
        (self.invocations() / ROWS).max(1)
    }

    /// Bytes of workgroup memory, with the sums of squares that some scores need.
    fn workgroup_bytes(&self) -> usize {
        let tile4 = self.units.tile as usize / 4;
        let (dim, columns, keys) = (self.dim_tiles * tile4, self.column_tiles * tile4, KEYS / 4);
        let (dim_stride, weight_stride) = (dim + 2, keys + 2);
        let values = (KEYS * dim_stride).max(ROWS * weight_stride);
        let halves = (values + 4 * columns * weight_stride).max(ROWS * dim_stride);
        let parts = ROWS * self.parts();
        halves * 8 + ROWS * (keys + 1) * 16 + (parts + self.invocations()) * 4 + 16
    }

    /// The consts and fragments of the products.
    fn products(&self) -> (Vec<(&'static str, u32)>, &'static [Fragment]) {
        let (mut consts, fragments) = matrix::products(self.units);
        consts.extend([
            ("DIM_TILES", self.dim_tiles as u32),
            ("COLUMN_TILES", self.column_tiles as u32),
            ("WHOLE", self.whole.into()),
        ]);
        (consts, fragments)
    }

    /// Work of the form over these tiles, which say where its blocks are.
    fn cost(&self, s: &Qkv, tiles: &Tiles, mask: Mask) -> Cost {
        let blocks = || tiles.blocks(s, mask).map(|(_, keys)| keys);
        let seen: usize = blocks().sum();
        let visits: usize = blocks().map(|keys| keys.div_ceil(KEYS)).sum();
        let (units, size) = (tiles.head_groups(s) as f64, s.dtype.size() as f64);
        let [q, _, _, o] = s.elements();
        // Rows, dimensions and columns that only pad a tile are counted, because they take time too.
        let dims = (self.dim_tiles + self.column_tiles) * self.units.tile as usize;
        let products = units * (visits * ROWS * KEYS) as f64;
        Cost {
            flops: products * 2.0 * dims as f64,
            exps: products,
            bytes_read: q * size + units * seen as f64 * (s.dim_k + s.dim_v) as f64 * size,
            bytes_written: o * size,
        }
    }

    /// Describes the form, for people.
    fn describe(&self, tiles: &Tiles) -> String {
        format!("{}, {}", matrix::describe(self.units), tiles.rows_by(KEYS))
    }
}

impl Attention<'_> {
    /// The form for matrix units.
    pub(super) fn matrices(&self, form: &Matrices, caps: &Caps) -> Parts {
        let (s, tiles) = (self.qkv, Tiles::new(self.qkv, caps));
        let own = |fragment: &Fragment| match *fragment {
            SQUARES => MATRIX_SQUARES,
            NO_SQUARES => MATRIX_NO_SQUARES,
            other => other,
        };
        let score: Vec<_> = self.fragments[0].iter().map(own).collect();
        let (consts, products) = form.products();
        // A row of one invocation shares no numbers, which selects the portable lanes.
        let spec = self.weighing(&score).with(&self.extras.of_outputs());
        let mut spec = spec.with(products).with(&[lanes(1, caps)]);
        spec.consts.extend(consts);
        let specs = rows(s, &spec, KEYS_STORED, &[Q, K, V, O], [&[WIDE], &[NARROW]]);
        let params = tiles.params(s, self.mask, self.score);
        let cost = form.cost(s, &tiles, self.mask);
        let mut step = Step { groups: tiles.groups(s), ..self.step(&self.kernels[3], specs, params, cost) };
        let rows = (s.batch * s.heads * s.queries) as f64;
        // Every part of a row reads its sink, once for each 32 columns.
        let visits = form.parts() * (form.column_tiles * form.units.tile as usize).div_ceil(KEYS);
        step.cost.bytes_read += if self.extras.sink { 4.0 * rows * visits as f64 } else { 0.0 };
        step.cost.bytes_written += if self.extras.lse { 4.0 * rows } else { 0.0 };
        // The first and the last row are asked for by each invocation, and those that it has.
        let asked = 2 + (ROWS / form.invocations()).max(1);
        (form.describe(&tiles), Vec::new(), vec![self.weighed(step, form.invocations(), asked)])
    }
}
