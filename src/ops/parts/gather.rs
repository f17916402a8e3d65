//! Weighted sums over rows of a table, as an embedding bag has them.
//!
//! ```text
//! o[r] = sum_k weights[r, k] table[indices[r, k]]
//! ```
//!
//! Summed up in f32 in the order of k, so that the same run gives the same bits. A row that the table does not have
//! counts as zero, and one of weight zero is not read. On a GPU indices and weights are read once for each block of 64
//! columns and each of its invocations.

use super::{Params, TYPES, kernel};
use crate::error::Error;
use crate::gpu::program::{Operand, Program, check_indices, check_memory};
use crate::gpu::source::{Bind, Kernel, Source, source};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::ops::float::{self, Float};
use crate::ops::{Cost, Definition, Operator, Precision, Rows};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Slot, Tensor, TensorMap, Values};

const NAME: &str = "gather";

/// The sum, for kernels that gather.
pub(crate) const SUM: Source = source!("parts/gather.wgsl");

/// Columns of a workgroup.
const COLUMNS: usize = 64;

/// Shape. [`Config::new`] has the default storage; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// R: sums.
    pub rows: usize,
    /// K: rows of the table in each.
    pub topk: usize,
    /// M: rows of the table.
    pub table: usize,
    /// E: columns.
    pub dim: usize,
    /// Storage of table and sums: f32 or f16.
    pub dtype: DType,
}

static GATHER: Kernel = kernel(
    "parts_gather",
    &[TYPES, SUM, source!("parts/gather_rows.wgsl")],
    &[("indices", Bind::Read), ("weights", Bind::Read), ("values", Bind::Read), ("o", Bind::Write)],
);

impl Config {
    /// f32.
    pub fn new(rows: usize, topk: usize, table: usize, dim: usize) -> Self {
        Self { rows, topk, table, dim, dtype: DType::F32 }
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the setting.
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

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> Definition {
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
}

fn indices(tensors: &TensorMap) -> &[u32] {
    match tensors.get("indices").map(|tensor| tensor.values()) {
        Some(Values::U32(indices)) => indices,
        _ => panic!("tensor indices is missing"),
    }
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let named = [self.rows, self.topk];
        vec![
            Slot::plain("indices", Access::Read, DType::U32, named),
            Slot::plain("weights", Access::Read, DType::F32, named),
            Slot::plain("table", Access::Read, self.dtype, [self.table, self.dim]),
            Slot::plain("o", Access::Write, self.dtype, [self.rows, self.dim]),
        ]
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        self.validate()?;
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
        let operands = (0..4).map(Operand::Slot).collect();
        let groups = self.rows * self.dim.div_ceil(COLUMNS);
        let step = super::step(&GATHER, super::spec(self.dtype, vec![], vec![]), &params, operands, groups, cost);
        Ok(Program::new(NAME, format!("blocks of {COLUMNS} columns"), self.slots(), vec![], vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        use rayon::prelude::*;
        self.validate()?;
        check_inputs(NAME, &self.slots(), tensors)?;
        let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        let (weights, table, indices) = (read("weights"), read("table"), indices(tensors));
        let mut o = vec![0.0; self.rows * self.dim];
        let named = indices.par_chunks_exact(self.topk).zip(weights.par_chunks_exact(self.topk));
        o.par_chunks_exact_mut(self.dim).zip(named).for_each(|(sum, (indices, weights))| {
            for (&index, &weight) in indices.iter().zip(weights) {
                if (index as usize) < self.table && weight != 0.0 {
                    crate::ops::cpu::add_scaled(sum, &table[index as usize * self.dim..][..self.dim], weight);
                }
            }
        });
        let o = HostTensor::f32([self.rows, self.dim], o).cast(self.dtype);
        Ok([("o".to_owned(), o)].into_iter().collect())
    }

    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String {
        "row after row".into()
    }

    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition {
        match precision {
            Precision::F32 => self.outputs::<f32>(tensors, rows),
            Precision::F64 => self.outputs::<f64>(tensors, rows),
        }
    }

    /// Each named row read once.
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

/// Tensors on the GPU.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[R, K]` u32.
    pub indices: &'a Tensor,
    /// `[R, K]` f32.
    pub weights: &'a Tensor,
    /// `[M, E]`.
    pub table: &'a Tensor,
    /// `[R, E]`, written.
    pub o: &'a Tensor,
}

/// Binds the tensors of a [`plan`](crate::ops::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { indices, weights, table, o } = tensors;
    plan.bind(&[("indices", indices), ("weights", weights), ("table", table), ("o", o)], workspace)
}
