//! The layer around a memory: a norm of every head's output and a sigmoid gate. With it, a RAM-Net block needs only its
//! projections from outside.
//!
//! ```text
//! o = x / sqrt(mean_e x^2 + eps) * weight * sigmoid(gate)
//! ```
//!
//! Rows have length E; there is one for each batch entry, head and token. Without a weight the weight is 1; without
//! a gate the sigmoid is 1. Without a gate this is the norm that follows [`ssd`](crate::ops::ssd), whose z gates before
//! the norm: a group of channels is then a head, and a weight for all channels is a weight per head. Source: arXiv
//! 2602.11958's companion site; spec/ramnet.md 1.6. Record it after the operator whose `o` is its `x`:
//!
//! ```no_run
//! use subquad::ops::{primitives::gated_norm, ramnet};
//! use subquad::{Plan, Tensor};
//!
//! /// `inner` is scratch of the shape of `o`.
//! fn block(
//!     memory: &Plan<ramnet::Config>,
//!     norm: &Plan<gated_norm::Config>,
//!     [q, k, v, gamma, gate, inner, o]: [&Tensor; 7],
//!     encoder: &mut wgpu::CommandEncoder,
//! ) -> Result<(), subquad::Error> {
//!     memory.bind(ramnet::Tensors::new(q, k, v, gamma, inner))?.encode(encoder);
//!     norm.bind(gated_norm::Tensors { gate: Some(gate), ..gated_norm::Tensors::new(inner, o) })?.encode(encoder);
//!     Ok(())
//! }
//! ```

use super::{Params, TYPES, Tokens, check_lengths, kernel};
#[cfg(feature = "cpu")]
use crate::cpu::simd;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices, check_memory};
use crate::gpu::shader::{Kernel, Variant, fragment};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Shape, Slot, TensorMap};
use crate::verify::float::{self, Float};

const NAME: &str = "norm";

/// Whether the norm has a learned weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    /// No weight.
    None,
    /// One weight for all heads: `[E]`.
    Shared,
    /// One weight per head: `[H, E]`.
    PerHead,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The rows of x.
    pub tokens: Tokens,
    /// E: dimensions per head.
    pub dim: usize,
    /// Whether there is a weight.
    pub weight: Weight,
    /// Whether there is a gate.
    pub gated: bool,
    /// Added to the mean square.
    pub eps: f32,
    /// Storage type of x, gate and o: f32 or f16.
    pub dtype: DType,
}

/// Rows per workgroup.
const ROWS: usize = 4;

static GATE: Kernel = kernel("primitives_gated_norm", &[TYPES, fragment!("primitives/gated_norm.wgsl")]);

impl Config {
    /// f32, with a gate, without a weight, eps 1e-6.
    pub fn new(tokens: impl Into<Tokens>, dim: usize) -> Self {
        Self { tokens: tokens.into(), dim, weight: Weight::None, gated: true, eps: 1e-6, dtype: DType::F32 }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.tokens.validate(NAME)?;
        check_lengths(NAME, [("E", self.dim)])?;
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(Error::setting(NAME, "eps", "a finite number of 0 or more", self.eps.to_string()));
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "x", "f32 or f16", self.dtype.name()));
        }
        check_memory(NAME, &self.slots())
    }

    fn weight_shape(&self) -> Option<Shape> {
        match self.weight {
            Weight::None => None,
            Weight::Shared => Some([self.dim].into()),
            Weight::PerHead => Some([self.tokens.heads, self.dim].into()),
        }
    }

    /// Index of the first element of a row's weight.
    fn weight_at(&self, row: usize) -> usize {
        if self.weight == Weight::PerHead { self.tokens.place(row).1 * self.dim } else { 0 }
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let x = read("x");
        let gate = self.gated.then(|| read("gate"));
        let weight = if self.weight == Weight::None { vec![T::of(1.0); self.dim] } else { read("weight") };
        let one = T::of(1.0);
        let mut o = Vec::new();
        for row in self.tokens.wanted(rows) {
            let own = row * self.dim..(row + 1) * self.dim;
            let square = float::dot(&x[own.clone()], &x[own.clone()]) / T::of(self.dim as f64);
            let root = (square + T::of(f64::from(self.eps))).sqrt();
            let weight = &weight[self.weight_at(row)..][..self.dim];
            o.extend(own.zip(weight).map(|(at, &weight)| {
                let normed = x[at] / root * weight;
                gate.as_ref().map_or(normed, |gate| normed / (one + (T::of(0.0) - gate[at]).exp())).wide()
            }));
        }
        vec![("o", o)]
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let shape = self.tokens.shape(self.dim);
        let slot = |name, access| Slot::plain(name, access, self.dtype, shape.clone());
        let mut slots = vec![slot("x", Access::Read), slot("o", Access::Write)];
        slots.extend(self.gated.then(|| slot("gate", Access::Read)));
        slots.extend(self.weight_shape().map(|shape| Slot::plain("weight", Access::Read, DType::F32, shape)));
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        check_indices(NAME, &self.slots())?;
        let params = Params {
            rows: self.tokens.rows() as u32,
            dim: self.dim as u32,
            heads: self.tokens.heads as u32,
            inner: self.tokens.inner() as u32,
            eps: self.eps,
            ..Params::default()
        };
        let kind = match self.weight {
            Weight::None => 0,
            Weight::Shared => 1,
            Weight::PerHead => 2,
        };
        // If a tensor is absent, the kernel binds a few bytes of workspace instead and does not read them.
        let slots = self.slots();
        let place = |name| slots.iter().position(|slot| slot.name == name);
        let operand = |name| place(name).map_or(Operand::Workspace(0), Operand::Slot);
        let operands = ["x", "gate", "weight", "o"].map(|name| (name, operand(name)));
        let absent = self.weight == Weight::None || !self.gated;
        let workspace = absent.then_some(Scratch { name: "absent", bytes: 16 }).into_iter().collect();
        let elements = (self.tokens.rows() * self.dim) as f64;
        let weights = if self.weight == Weight::None { 0.0 } else { elements * 4.0 };
        let streams = if self.gated { 3.0 } else { 2.0 }; // x twice
        let bytes_read = elements * streams * self.dtype.size() as f64 + weights;
        let spec = Variant::new(self.dtype, vec![], vec![("WEIGHTS", kind), ("GATED", self.gated.into())]);
        let groups = self.tokens.rows().div_ceil(ROWS);
        let step = Step::new(&GATE, spec, &params, &operands, groups as u64, Cost { bytes_read, ..self.cost() });
        Ok(Program::new(NAME, format!("{ROWS} rows a workgroup"), slots, workspace, vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use rayon::prelude::*;
        let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        let (mut o, gate, weight) = (read("x"), read("gate"), read("weight"));
        o.par_chunks_exact_mut(self.dim).enumerate().for_each(|(row, o)| {
            let root = 1.0 / (simd::dot(o, o) / self.dim as f32 + self.eps).sqrt();
            simd::scale(o, root);
            if !weight.is_empty() {
                simd::multiply(o, &weight[self.weight_at(row)..][..self.dim]);
            }
            if self.gated {
                sigmoids(o, &gate[row * self.dim..][..self.dim]);
            }
        });
        let shape = self.tokens.shape(self.dim);
        [("o".to_owned(), HostTensor::f32(shape, o).cast(self.dtype))].into_iter().collect()
    }

    fn cost(&self) -> Cost {
        let (elements, size) = ((self.tokens.rows() * self.dim) as f64, self.dtype.size() as f64);
        let weight = self.weight_shape().map_or(0, |shape| shape.count()) as f64 * 4.0;
        let gates = if self.gated { elements } else { 0.0 };
        Cost {
            flops: 3.0 * elements + 2.0 * gates,
            exps: gates,
            bytes_read: (elements + gates) * size + weight,
            bytes_written: elements * size,
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
}

#[cfg(feature = "cpu")]
simd::wide! {
    /// `x *= sigmoid(gate)`.
    fn sigmoids(x: &mut [f32], gate: &[f32]) {
        for (x, gate) in x.iter_mut().zip(gate) {
            *x /= 1.0 + simd::exp_signed(-*gate);
        }
    }
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[B, H, N, E]`.
        x,
        /// The same shape as `x`, written.
        o,
    }
    optional {
        /// The same shape as `x`: logits of the gate; required if the configuration has a gate, otherwise refused.
        gate,
        /// `[E]` or `[H, E]`, f32; required if the configuration has a weight, otherwise refused.
        weight,
    }
}
