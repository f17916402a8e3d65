//! Vector quantisation: replaces each row by the nearest of a set of codes.
//!
//! ```text
//! code[r] = the c of the least |x[r] - codebook[c]|^2, of equal distances the lower c
//! o[r]    = codebook[code[r]], rounded to the storage type of x
//! ```
//!
//! There is one codebook for all heads, or one per head. The code is that of exact arithmetic on the numbers as stored,
//! on every backend. Distances are computed in f32. In whatever order, with or without fused multiply-adds, each may be off
//! by (E + 2) 2^-23 of itself, and by less than (E + 8) 2^-101 where f32 has no normal numbers. Where the second least
//! distance exceeds the least one by less than that of both, all codes that may be nearest are compared again without
//! rounding: on a GPU by sums in whole numbers of 576 bits, on the `cpu` backend by sums of f64 numbers that do not overlap.
//!
//! A code that contains a NaN or an infinity is nearest to nothing. If the row does, or all codes do, the code is 0.
//!
//! On a GPU, a workgroup compares 64 rows with 64 codes at a time, from workgroup memory, and keeps the two least distances
//! of each row. If there are few rows, workgroups share the codes. A second dispatch decides and writes code and o. Cost:
//! 3 E flops per row and code. The codebook is read once for every 64 rows, the rows once for every 64 codes.

use super::{Tokens, check_lengths};
use crate::cores::rows::{self, KEYS_F32, OUTPUTS_STORED, ROWS};
#[cfg(feature = "cpu")]
use crate::cpu::simd;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices, check_memory, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
use crate::ops::primitives::exact;
use crate::tensor::HostTensor;
#[cfg(feature = "cpu")]
use crate::tensor::Values;
use crate::tensor::{Access, DType, Shape, Slot, TensorMap};
use crate::verify::float::Float;

const NAME: &str = "quantize";

/// Maximum number of dimensions E, for which the bounds of rounding and the exact sums are made.
pub const MAX_DIM: usize = 1024;

/// Maximum number of codes C.
pub const MAX_CODES: usize = 1 << 24;

/// Rows, and codes, of a tile.
const TILE: usize = 64;

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The rows of x.
    pub tokens: Tokens,
    /// E: dimensions, at most [`MAX_DIM`].
    pub dim: usize,
    /// C: codes, at most [`MAX_CODES`].
    pub codes: usize,
    /// Whether every head has its own codebook.
    pub per_head: bool,
    /// Storage type of x and o: f32 or f16. The codebook is f32.
    pub dtype: DType,
}

params! {
    /// Must match `struct Params` in `shaders/primitives/quantize.wgsl`.
    struct Params {
        grid: Grid,
        rows: u32,
        heads: u32,
        inner: u32,
        step: u32,
        entry: u32,
        codes: u32,
        book: u32,
        splits: u32,
        tiles: u32,
        dim_k: u32,
        dim_v: u32,
        _pad: u32,
    }
}

const TYPES: Fragment = fragment!("primitives/quantize.wgsl");

/// Why every index of the kernels is within bounds.
const PROOF: &str = "rows and codes are clamped to those in the uniform, and elements to those of a row; codes that the second \
                     kernel reads were written by the first, which only writes such; loops end at consts and uniforms";

static SCAN: Kernel = Kernel::new(
    "primitives_quantize_scan",
    &[ROWS, TYPES, fragment!("primitives/quantize_scan.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

static DECIDE: Kernel = Kernel::new(
    "primitives_quantize_decide",
    &[ROWS, TYPES, fragment!("primitives/exact.wgsl"), fragment!("primitives/quantize_decide.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

/// What the steps bind.
pub(crate) struct Operands {
    /// The rows.
    pub(crate) x: Operand,
    /// The codebook.
    pub(crate) codebook: Operand,
    /// Workspace of [`Config::found_bytes`].
    pub(crate) found: Operand,
    /// The number of each row's code, i32.
    pub(crate) code: Operand,
    /// The code of each row.
    pub(crate) o: Operand,
}

impl Config {
    /// One codebook for all heads, in f32.
    pub fn new(tokens: impl Into<Tokens>, codes: usize, dim: usize) -> Self {
        Self { tokens: tokens.into(), dim, codes, per_head: false, dtype: DType::F32 }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.tokens.validate(NAME)?;
        check_lengths(NAME, [("C", self.codes), ("E", self.dim)])?;
        for (axis, length, most) in [("C", self.codes, MAX_CODES), ("E", self.dim, MAX_DIM)] {
            if length > most {
                return Err(Error::setting(NAME, axis, format!("1 to {most}"), length.to_string()));
            }
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "x", "f32 or f16", self.dtype.name()));
        }
        check_memory(NAME, &self.slots())
    }

    /// Shape of the codebook.
    fn book(&self) -> Shape {
        if self.per_head { [self.tokens.heads, self.codes, self.dim].into() } else { [self.codes, self.dim].into() }
    }

    /// Shape of the codes' numbers: the axes of x but the last.
    fn code(&self) -> Shape {
        let rows = self.tokens.shape(1);
        rows.dims()[..3].to_vec().into()
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        self.named_slots().into()
    }

    /// x, codebook, code and o.
    pub(crate) fn named_slots(&self) -> [Slot; 4] {
        [
            Slot::plain("x", Access::Read, self.dtype, self.tokens.shape(self.dim)),
            Slot::plain("codebook", Access::Read, DType::F32, self.book()),
            Slot::plain("code", Access::Write, DType::I32, self.code()),
            Slot::plain("o", Access::Write, self.dtype, self.tokens.shape(self.dim)),
        ]
    }

    /// Units whose rows have one codebook, and the rows of each.
    fn units(&self) -> (usize, usize) {
        let Tokens { batch, heads, len, .. } = self.tokens;
        if self.per_head { (batch * heads, len) } else { (1, self.tokens.rows()) }
    }

    /// Tiles of rows, parts of the codes that workgroups share, and tiles of codes per part.
    fn split(&self, caps: &Caps) -> [usize; 3] {
        let (units, rows) = self.units();
        let (blocks, tiles) = (units * rows.div_ceil(TILE), self.codes.div_ceil(TILE));
        let splits = (caps.full_groups as usize / blocks).clamp(1, tiles);
        let each = tiles.div_ceil(splits);
        [blocks, tiles.div_ceil(each), each]
    }

    /// Bytes of workspace that the steps need.
    pub(crate) fn found_bytes(&self, caps: &Caps) -> u64 {
        let [_, splits, _] = self.split(caps);
        (self.tokens.rows() * splits * 12) as u64
    }

    /// The dispatches, for a program of this operator or of one that quantises rows of its own.
    pub(crate) fn steps(&self, caps: &Caps, operands: &Operands) -> [Step; 2] {
        let [blocks, splits, tiles] = self.split(caps);
        let t = &self.tokens;
        let (_, rows) = self.units();
        let shared = Params { heads: 1, inner: 1, step: 1, entry: 0, book: 0, ..Params::default() };
        let own = Params {
            heads: t.heads as u32,
            inner: t.inner() as u32,
            step: t.step() as u32,
            entry: t.entry() as u32,
            book: (self.codes * self.dim) as u32,
            ..Params::default()
        };
        let params = Params {
            rows: rows as u32,
            codes: self.codes as u32,
            splits: splits as u32,
            tiles: tiles as u32,
            dim_k: self.dim as u32,
            dim_v: self.dim as u32,
            ..if self.per_head { own } else { shared }
        };
        let named = [
            ("q", operands.x),
            ("k", operands.codebook),
            ("found", operands.found),
            ("code", operands.code),
            ("o", operands.o),
        ];
        let (all, size, e) = (t.rows() as f64, self.dtype.size() as f64, self.dim as f64);
        let found = all * splits as f64 * 12.0;
        let scan = Cost {
            flops: 3.0 * e * all * self.codes as f64,
            // Rows once per tile of codes, codes once per tile of rows.
            bytes_read: all * e * size * self.codes.div_ceil(TILE) as f64
                + (blocks * self.codes * self.dim) as f64 * 4.0,
            bytes_written: found,
            ..Cost::default()
        };
        // Stated for rows whose nearest code is nearer than all others by more than rounding.
        let decide =
            Cost { bytes_read: found + all * e * 4.0, bytes_written: all * (4.0 + e * size), ..Cost::default() };
        let spec = Variant::new(self.dtype, vec![], vec![]);
        let dims = Qkv::new().dim(self.dim).dim_v(self.dim);
        let step = |kernel, wanted: &[usize], more: &[Fragment], groups: usize, cost| {
            // Tensors are not strided here, so that the wide variant needs no other beside it.
            let (spec, _) = rows::rows(&dims, &spec, KEYS_F32, wanted, [more; 2]);
            Step::new(kernel, spec, &params, &named, groups as u64, cost)
        };
        [
            step(&SCAN, &[rows::Q, rows::K], &[], blocks * splits, scan),
            step(&DECIDE, &[rows::Q, rows::K, rows::O], &[OUTPUTS_STORED], t.rows(), decide),
        ]
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        check_indices(NAME, &self.slots())?;
        let [x, codebook, code, o] = [0, 1, 2, 3].map(Operand::Slot);
        let operands = Operands { x, codebook, found: Operand::Workspace(0), code, o };
        let workspace = vec![Scratch { name: "least distances", bytes: self.found_bytes(caps) }];
        check_workspace(NAME, &workspace)?;
        let [_, splits, _] = self.split(caps);
        let variant = match splits {
            1 => format!("tiles of {TILE} rows and {TILE} codes"),
            _ => format!("tiles of {TILE} rows and {TILE} codes, codes in {splits} parts"),
        };
        Ok(Program::new(NAME, variant, self.slots(), workspace, self.steps(caps, &operands).into()))
    }

    fn cost(&self) -> Cost {
        let (all, size, e) = (self.tokens.rows() as f64, self.dtype.size() as f64, self.dim as f64);
        Cost {
            flops: 3.0 * e * all * self.codes as f64,
            exps: 0.0,
            bytes_read: all * e * size + self.book().count() as f64 * 4.0,
            bytes_written: all * (4.0 + e * size),
        }
    }

    /// The codebook of a row.
    fn book_of<'b>(&self, book: &'b [f32], row: usize) -> &'b [f32] {
        let size = self.codes * self.dim;
        let head = if self.per_head { self.tokens.place(row).1 } else { 0 };
        &book[head * size..][..size]
    }

    /// The definition. Distances are f64; those that differ by less than it rounds are compared exactly.
    fn outputs<T: Float>(&self, tensors: &TensorMap, wanted: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing")).to_f32();
        let (x, book) = (read("x"), read("codebook"));
        let (mut code, mut o) = (Vec::new(), Vec::new());
        for row in self.tokens.wanted(wanted) {
            let x = &x[row * self.dim..][..self.dim];
            let codes: Vec<_> = self.book_of(&book, row).chunks_exact(self.dim).collect();
            let mut nearest: Option<(usize, f64)> = None;
            for (at, c) in codes.iter().enumerate() {
                let far: f64 = x.iter().zip(*c).map(|(x, c)| (f64::from(*x) - f64::from(*c)).powi(2)).sum();
                if !far.is_finite() {
                    continue;
                }
                let nearer = |&(best, least): &(usize, f64)| {
                    far < least * (1.0 - 1e-9)
                        || (far <= least * (1.0 + 1e-9) && exact::compare(x, c, codes[best]).is_lt())
                };
                if nearest.as_ref().is_none_or(nearer) {
                    nearest = Some((at, far));
                }
            }
            let at = nearest.map_or(0, |(at, _)| at);
            code.push(at as f64);
            o.extend(codes[at].iter().map(|c| T::of(f64::from(*c)).wide()));
        }
        vec![("code", code), ("o", o)]
    }

    /// The definition for all rows of another operator: their codes, and what these are as the rows are stored.
    pub(crate) fn definition(&self, x: &HostTensor, codebook: &HostTensor) -> (Vec<f64>, Vec<f64>) {
        let mut found = self.outputs::<f64>(&self.named(x, codebook), Rows::All).into_iter().map(|(_, values)| values);
        let (code, o) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
        let o: Vec<f32> = o.into_iter().map(|x| x as f32).collect();
        (code, HostTensor::f32([o.len()], o).cast(self.dtype).to_f64())
    }

    /// The `cpu` backend for the rows of another operator: code and o.
    #[cfg(feature = "cpu")]
    pub(crate) fn quantised(&self, x: &HostTensor, codebook: &HostTensor) -> TensorMap {
        self.cpu(&self.named(x, codebook))
    }

    fn named(&self, x: &HostTensor, codebook: &HostTensor) -> TensorMap {
        [("x".to_owned(), x.clone()), ("codebook".to_owned(), codebook.clone())].into_iter().collect()
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use rayon::prelude::*;
        let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        let (x, book) = (read("x"), read("codebook"));
        let books: Vec<_> = book.chunks_exact(self.codes * self.dim).map(|book| packed(book, self.dim)).collect();
        let mut code = vec![0i32; self.tokens.rows()];
        let mut o = vec![0.0; x.len()];
        // A block of rows passes over the codes together, so that each group of codes is read from memory once.
        let (per_head, inner) = (self.per_head, self.tokens.inner());
        let block = if per_head && inner == 1 { 1 } else { BLOCK };
        let runs = if per_head { inner } else { self.tokens.rows() };
        let blocks: Vec<_> = (0..self.tokens.rows())
            .step_by(runs)
            .flat_map(|start| (start..start + runs).step_by(block).map(move |at| at..(at + block).min(start + runs)))
            .collect();
        let near: Vec<Vec<i32>> = blocks
            .par_iter()
            .map(|rows| {
                let head = if per_head { self.tokens.place(rows.start).1 } else { 0 };
                let own = self.book_of(&book, rows.start);
                let mut least = vec![Least::NONE; rows.len()];
                for (group, codes) in books[head].chunks_exact(GROUP * self.dim).enumerate() {
                    for (least, x) in least.iter_mut().zip(x[rows.start * self.dim..].chunks_exact(self.dim)) {
                        let mut far = [0.0; GROUP];
                        distances(&mut far, x, codes);
                        least.note(&far, group * GROUP);
                    }
                }
                let row = |(least, x): (Least, &[f32])| least.decide(x, own) as i32;
                least.into_iter().zip(x[rows.start * self.dim..].chunks_exact(self.dim)).map(row).collect()
            })
            .collect();
        for (rows, near) in blocks.into_iter().zip(near) {
            code[rows].copy_from_slice(&near);
        }
        o.par_chunks_exact_mut(self.dim).enumerate().for_each(|(row, o)| {
            o.copy_from_slice(&self.book_of(&book, row)[code[row] as usize * self.dim..][..self.dim]);
        });
        let mut outputs = TensorMap::new();
        outputs.insert("code", HostTensor::new(self.code(), Values::I32(code)));
        outputs.insert("o", HostTensor::f32(self.tokens.shape(self.dim), o).cast(self.dtype));
        outputs
    }
}

/// Codes whose distances are computed together, one in each lane of a vector.
#[cfg(feature = "cpu")]
const GROUP: usize = 16;
/// Rows that pass over the codes together.
#[cfg(feature = "cpu")]
const BLOCK: usize = 16;

/// The codes in groups: all first elements of a group, then all second ones. Codes that only fill the last group are
/// infinite, and nearest to nothing.
#[cfg(feature = "cpu")]
fn packed(book: &[f32], dim: usize) -> Vec<f32> {
    let mut packed = vec![f32::INFINITY; (book.len() / dim).next_multiple_of(GROUP) * dim];
    for (at, code) in book.chunks_exact(dim).enumerate() {
        let group = &mut packed[at / GROUP * GROUP * dim..][..GROUP * dim];
        code.iter().enumerate().for_each(|(e, &c)| group[e * GROUP + at % GROUP] = c);
    }
    packed
}

#[cfg(feature = "cpu")]
simd::wide! {
    /// Squared distances of a row to a group of codes.
    fn distances(far: &mut [f32; 16], x: &[f32], codes: &[f32]) {
        let mut sums = [0.0f32; 16];
        for (&x, codes) in x.iter().zip(codes.chunks_exact(16)) {
            for i in 0..16 {
                let d = codes[i] - x;
                sums[i] += d * d;
            }
        }
        *far = sums;
    }
}

/// The two least distances of a row as bits, which are in the order of the distances and have NaN last, and the code of
/// the least one.
#[cfg(feature = "cpu")]
#[derive(Clone, Copy)]
struct Least {
    first: u32,
    second: u32,
    code: usize,
}

#[cfg(feature = "cpu")]
impl Least {
    const NONE: Self = Self { first: u32::MAX, second: u32::MAX, code: 0 };

    fn note(&mut self, far: &[f32; GROUP], start: usize) {
        for (i, far) in far.iter().enumerate() {
            let key = far.to_bits() & 0x7fff_ffff;
            if key < self.second {
                if key < self.first {
                    (self.second, self.first, self.code) = (self.first, key, start + i);
                } else {
                    self.second = key;
                }
            }
        }
    }

    /// The nearest of the codes of `book`, exactly.
    fn decide(&self, x: &[f32], book: &[f32]) -> usize {
        let dim = x.len();
        let least = f32::from_bits(self.first);
        let slack = (dim + 8) as f32;
        // The f32 distance of the nearest code is at most this, unless distances overflow.
        let most = least * (1.0 + slack * 2f32.powi(-22)) + slack * 2f32.powi(-100);
        if least.is_finite() && self.second > most.to_bits() {
            return self.code;
        }
        let far = |c: &[f32]| x.iter().zip(c).map(|(x, c)| (c - x) * (c - x)).sum::<f32>();
        let candidate = |c: &[f32]| simd::finite(c) && (!least.is_finite() || far(c) <= most);
        if !simd::finite(x) {
            return 0;
        }
        let candidates = book.chunks_exact(dim).enumerate().filter(|(_, c)| candidate(c));
        let nearer = |best: (usize, _), other: (usize, _)| {
            if exact::compare(x, other.1, best.1).is_lt() { other } else { best }
        };
        candidates.reduce(nearer).map_or(0, |(at, _)| at)
    }
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: Self::cost,
        program: Self::program,
        reference: [Self::outputs::<f32>, Self::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(Self::cpu, |_| format!("{BLOCK} rows and {GROUP} codes at a time")),
    };
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[B, H, N, E]`.
        x,
        /// `[C, E]`, or `[H, C, E]` if every head has its own.
        codebook,
        /// `[B, H, N]` i32, written.
        code,
        /// The same shape as `x`, written.
        o,
    }
    optional {}
}
