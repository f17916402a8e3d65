//! Weighted sums of rows of a table, as in an embedding bag.
//!
//! ```text
//! o[r] = sum_k weights[r, k] table[indices[r, k]]
//! ```
//!
//! Sums are computed in f32 in the order of k, so that every run gives the same bits. An index beyond the table counts
//! as a row of zeros, and a row of weight zero is not read. On a GPU, every invocation of a block of 64 columns reads
//! the indices and weights once.

use super::{Params, TYPES, kernel};
#[cfg(feature = "cpu")]
use crate::cpu::simd;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Operand, Program, Step, check_indices, check_memory};
use crate::gpu::shader::{Fragment, Kernel, Variant, fragment};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Slot, TensorMap, Values};
use crate::verify::float::{self, Float};

const NAME: &str = "gather";

/// The WGSL fragment of the sum, for kernels that gather.
pub(crate) const SUM: Fragment = fragment!("primitives/gather.wgsl");

/// Columns per workgroup.
const COLUMNS: usize = 64;

/// Shape. [`Config::new`] has the default storage; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// R: number of sums.
    pub rows: usize,
    /// K: rows of the table per sum.
    pub topk: usize,
    /// M: rows of the table.
    pub table: usize,
    /// E: columns.
    pub dim: usize,
    /// Storage type of the table and the sums: f32 or f16.
    pub dtype: DType,
}

static GATHER: Kernel = kernel("primitives_gather", &[TYPES, SUM, fragment!("primitives/gather_rows.wgsl")]);

impl Config {
    /// A shape with f32 storage.
    pub fn new(rows: usize, topk: usize, table: usize, dim: usize) -> Self {
        Self { rows, topk, table, dim, dtype: DType::F32 }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        for (setting, value) in [("rows", self.rows), ("topk", self.topk), ("table", self.table), ("dim", self.dim)] {
            if value == 0 {
                return Err(Error::setting(NAME, setting, "1 or more", "0"));
            }
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "table", "f32 or f16", self.dtype.name()));
        }
        check_memory(NAME, &self.slots())
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let (weights, table, indices) = (read("weights"), read("table"), indices(tensors));
        let mut o = Vec::new();
        for row in rows.of(self.rows) {
            let mut sum = vec![T::of(0.0); self.dim];
            for at in row * self.topk..(row + 1) * self.topk {
                let index = indices[at] as usize;
                if index < self.table && weights[at] != T::of(0.0) {
                    let from = &table[index * self.dim..][..self.dim];
                    sum.iter_mut().zip(from).for_each(|(sum, &x)| *sum += weights[at] * x);
                }
            }
            o.extend(float::wide(sum));
        }
        vec![("o", o)]
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let named = [self.rows, self.topk];
        vec![
            Slot::plain("indices", Access::Read, DType::U32, named),
            Slot::plain("weights", Access::Read, DType::F32, named),
            Slot::plain("table", Access::Read, self.dtype, [self.table, self.dim]),
            Slot::plain("o", Access::Write, self.dtype, [self.rows, self.dim]),
        ]
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        check_indices(NAME, &self.slots())?;
        let params = Params {
            rows: self.rows as u32,
            count: self.topk as u32,
            dim: self.dim as u32,
            table: self.table as u32,
            ..Params::default()
        };
        let sums = (self.rows * self.topk * self.dim) as f64;
        let cost = Cost { bytes_read: sums * (8.0 + self.dtype.size() as f64), ..self.cost() };
        let names = ["indices", "weights", "values", "o"];
        let operands: Vec<_> = names.into_iter().zip((0..4).map(Operand::Slot)).collect();
        let groups = self.rows * self.dim.div_ceil(COLUMNS);
        let step =
            Step::new(&GATHER, Variant::new(self.dtype, vec![], vec![]), &params, &operands, groups as u64, cost);
        Ok(Program::new(NAME, format!("blocks of {COLUMNS} columns"), self.slots(), vec![], vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use rayon::prelude::*;
        let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        let (weights, table, indices) = (read("weights"), read("table"), indices(tensors));
        let mut o = vec![0.0; self.rows * self.dim];
        let named = indices.par_chunks_exact(self.topk).zip(weights.par_chunks_exact(self.topk));
        o.par_chunks_exact_mut(self.dim).zip(named).for_each(|(sum, (indices, weights))| {
            for (&index, &weight) in indices.iter().zip(weights) {
                if (index as usize) < self.table && weight != 0.0 {
                    simd::add_scaled(sum, &table[index as usize * self.dim..][..self.dim], weight);
                }
            }
        });
        let o = HostTensor::f32([self.rows, self.dim], o).cast(self.dtype);
        [("o".to_owned(), o)].into_iter().collect()
    }

    fn cost(&self) -> Cost {
        let (named, size) = ((self.rows * self.topk) as f64, self.dtype.size() as f64);
        Cost {
            flops: 2.0 * named * self.dim as f64,
            exps: 0.0,
            bytes_read: named * (8.0 + self.dim as f64 * size),
            bytes_written: (self.rows * self.dim) as f64 * size,
        }
    }
}

fn indices(tensors: &TensorMap) -> &[u32] {
    match tensors.get("indices").map(|tensor| tensor.values()) {
        Some(Values::U32(indices)) => indices,
        _ => panic!("tensor indices is missing"),
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
        cpu: crate::operator::CpuBackend { run: Self::cpu, variant: |_| "row after row".into() },
    };
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[R, K]` u32.
        indices,
        /// `[R, K]` f32.
        weights,
        /// `[M, E]`.
        table,
        /// `[R, E]`, written.
        o,
    }
    optional {}
}
