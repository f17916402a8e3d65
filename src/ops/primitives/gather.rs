//! Weighted sums of rows of a table, as in an embedding bag.
//!
//! ```text
//! o[r] = sum_k weight[r, k] table[index[r, k]]
//! ```
//!
//! Each batch entry and head has a table, or shares one. Sums are computed in f32 in the order of k, so that every run gives
//! the same bits. A row of weight zero is not read. Runs from the host refuse an index beyond the table; in a plan on a GPU,
//! which does not see the values, it counts as a row of zeros. On a GPU, every invocation of a block of 64 columns reads the
//! indices and weights once.

use super::{Params, TYPES, Tokens, check_lengths, check_whole, kernel, whole};
#[cfg(feature = "cpu")]
use crate::cpu::simd;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Operand, Program, Step, check_indices, check_memory};
use crate::gpu::shader::{Fragment, Kernel, Variant, fragment};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Slot, TensorMap};
use crate::verify::float::{self, Float};

const NAME: &str = "gather";

/// The WGSL fragment of the sum, for kernels that gather.
pub(crate) const SUM: Fragment = fragment!("primitives/gather.wgsl");

/// Columns per workgroup.
const COLUMNS: usize = 64;

/// Shape. [`Config::new`] has the default storage; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The rows of o: one per sum.
    pub tokens: Tokens,
    /// K: rows of the table per sum.
    pub topk: usize,
    /// Number of tables along the batch and along the heads: each is 1 if all share one.
    pub tables: [usize; 2],
    /// S: rows of a table.
    pub table: usize,
    /// E: columns.
    pub dim: usize,
    /// Storage type of the table and the sums: f32 or f16.
    pub dtype: DType,
}

static GATHER: Kernel = kernel("primitives_gather", &[TYPES, SUM, fragment!("primitives/gather_rows.wgsl")]);

impl Config {
    /// One table for all, in f32.
    pub fn new(tokens: impl Into<Tokens>, topk: usize, table: usize, dim: usize) -> Self {
        Self { tokens: tokens.into(), topk, tables: [1, 1], table, dim, dtype: DType::F32 }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.tokens.validate(NAME)?;
        check_lengths(NAME, [("K", self.topk), ("S", self.table), ("E", self.dim)])?;
        for (axis, length, all) in [("B", self.tables[0], self.tokens.batch), ("H", self.tables[1], self.tokens.heads)]
        {
            if length != 1 && length != all {
                let expected = format!("1 or {axis} = {all} tables along {axis}, as index has");
                return Err(Error::tensor(NAME, "table", expected, length.to_string()));
            }
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "table", "f32 or f16", self.dtype.name()));
        }
        check_memory(NAME, &self.slots())
    }

    /// Elements from the table of a batch entry to that of the next, and of a head; 0 if they share it.
    fn steps(&self) -> [usize; 2] {
        let [batch, heads] = self.tables;
        let table = self.table * self.dim;
        [if batch == 1 { 0 } else { heads * table }, if heads == 1 { 0 } else { table }]
    }

    /// The first element of the table of a row.
    fn table_at(&self, row: usize) -> usize {
        let (batch, head) = self.tokens.place(row);
        let [per_batch, per_head] = self.steps();
        batch * per_batch + head * per_head
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let (weights, table, indices) = (read("weight"), read("table"), whole(tensors, "index"));
        let mut o = Vec::new();
        for row in self.tokens.wanted(rows) {
            let mut sum = vec![T::of(0.0); self.dim];
            for at in row * self.topk..(row + 1) * self.topk {
                if weights[at] != T::of(0.0) {
                    let from = &table[self.table_at(row) + indices[at] as usize * self.dim..][..self.dim];
                    sum.iter_mut().zip(from).for_each(|(sum, &x)| *sum += weights[at] * x);
                }
            }
            o.extend(float::wide(sum));
        }
        vec![("o", o)]
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let named = self.tokens.shape(self.topk);
        let [batch, heads] = self.tables;
        vec![
            Slot::plain("index", Access::Read, DType::I32, named.clone()),
            Slot::plain("weight", Access::Read, DType::F32, named),
            Slot::plain("table", Access::Read, self.dtype, [batch, heads, self.table, self.dim]),
            Slot::plain("o", Access::Write, self.dtype, self.tokens.shape(self.dim)),
        ]
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        check_indices(NAME, &self.slots())?;
        let [table_batch, table_head] = self.steps();
        let params = Params {
            rows: self.tokens.rows() as u32,
            count: self.topk as u32,
            dim: self.dim as u32,
            table: self.table as u32,
            heads: self.tokens.heads as u32,
            inner: self.tokens.inner() as u32,
            entry: self.tokens.entry() as u32,
            table_batch: table_batch as u32,
            table_head: table_head as u32,
            ..Params::default()
        };
        let sums = (self.tokens.rows() * self.topk * self.dim) as f64;
        let cost = Cost { bytes_read: sums * (8.0 + self.dtype.size() as f64), ..self.cost() };
        let names = ["indices", "weight", "values", "o"];
        let operands: Vec<_> = names.into_iter().zip((0..4).map(Operand::Slot)).collect();
        let groups = self.tokens.rows() * self.dim.div_ceil(COLUMNS);
        let step =
            Step::new(&GATHER, Variant::new(self.dtype, vec![], vec![]), &params, &operands, groups as u64, cost);
        Ok(Program::new(NAME, format!("blocks of {COLUMNS} columns"), self.slots(), vec![], vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use rayon::prelude::*;
        let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        let (weights, table, indices) = (read("weight"), read("table"), whole(tensors, "index"));
        let mut o = vec![0.0; self.tokens.rows() * self.dim];
        let named = indices.par_chunks_exact(self.topk).zip(weights.par_chunks_exact(self.topk));
        o.par_chunks_exact_mut(self.dim).zip(named).enumerate().for_each(|(row, (sum, (indices, weights)))| {
            let table = &table[self.table_at(row)..];
            for (&index, &weight) in indices.iter().zip(weights) {
                if weight != 0.0 {
                    simd::add_scaled(sum, &table[index as usize * self.dim..][..self.dim], weight);
                }
            }
        });
        let o = HostTensor::f32(self.tokens.shape(self.dim), o).cast(self.dtype);
        [("o".to_owned(), o)].into_iter().collect()
    }

    fn cost(&self) -> Cost {
        let (named, size) = ((self.tokens.rows() * self.topk) as f64, self.dtype.size() as f64);
        Cost {
            flops: 2.0 * named * self.dim as f64,
            exps: 0.0,
            bytes_read: named * (8.0 + self.dim as f64 * size),
            bytes_written: (self.tokens.rows() * self.dim) as f64 * size,
        }
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
        cpu: crate::operator::CpuBackend::new(Self::cpu, |_| "row after row".into()),
    };

    fn check_values(&self, tensors: &TensorMap) -> Result<(), Error> {
        check_whole(NAME, "index", tensors, self.table)
    }
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[B, H, N, K]` i32.
        index,
        /// `[B, H, N, K]` f32.
        weight,
        /// `[B, H, S, E]`, where B and H are 1 if all share one table.
        table,
        /// `[B, H, N, E]`, written.
        o,
    }
    optional {}
}
