//! The layer around a memory: a norm of every head's output and a sigmoid gate. With it, a RAM-Net block needs only its
//! projections from outside.
//!
//! ```text
//! y = x / sqrt(mean_e x^2 + eps) * scale * sigmoid(gate)
//! ```
//!
//! Rows have length E; there is one for each batch entry, head and token. Without a scale the scale is 1; without a
//! gate the sigmoid is 1. Without a gate this is the norm that follows [`ssd`](crate::ops::ssd), whose z gates before
//! the norm: a group of channels is then a head, and a weight for all channels is a scale per head. Source: arXiv
//! 2602.11958's companion site; spec/ramnet.md 1.6. Record it after the operator whose `o` is its `x`:
//!
//! ```no_run
//! use subquad::ops::{primitives::gated_norm, ramnet};
//! use subquad::{Plan, Tensor};
//!
//! /// `inner` is scratch of the shape of `y`.
//! fn block(
//!     memory: &Plan<ramnet::Config>,
//!     norm: &Plan<gated_norm::Config>,
//!     [q, k, v, gamma, gate, inner, y]: [&Tensor; 7],
//!     encoder: &mut wgpu::CommandEncoder,
//! ) -> Result<(), subquad::Error> {
//!     memory.bind(ramnet::Tensors::new(q, k, v, gamma, inner))?.encode(encoder);
//!     norm.bind(gated_norm::Tensors { gate: Some(gate), ..gated_norm::Tensors::new(inner, y) })?.encode(encoder);
//!     Ok(())
//! }
//! ```

use super::{Params, TYPES, kernel};
#[cfg(feature = "cpu")]
use crate::cpu::simd;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices, check_memory};
use crate::gpu::shader::{Kernel, Variant, fragment};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Layout, Shape, Slot, TensorMap};
use crate::verify::float::{self, Float};

const NAME: &str = "gated_norm";

/// Whether the norm has a learned scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scale {
    /// No scale.
    None,
    /// One scale for all heads: `[E]`.
    Shared,
    /// One scale per head: `[H, E]`.
    PerHead,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// B: batch.
    pub batch: usize,
    /// H: heads.
    pub heads: usize,
    /// N: tokens.
    pub len: usize,
    /// E: dimensions per head.
    pub dim: usize,
    /// Whether there is a scale.
    pub scale: Scale,
    /// Whether there is a gate.
    pub gated: bool,
    /// Added to the mean square.
    pub eps: f32,
    /// Storage type of x, gate and y: f32 or f16.
    pub dtype: DType,
    /// Axis order of x, gate and y.
    pub layout: Layout,
}

/// Rows per workgroup.
const ROWS: usize = 4;

static GATE: Kernel = kernel("primitives_gated_norm", &[TYPES, fragment!("primitives/gated_norm.wgsl")]);

impl Config {
    /// f32 in layout bhnd, with a gate, without a scale, eps 1e-6.
    pub fn new(batch: usize, heads: usize, len: usize, dim: usize) -> Self {
        let (scale, dtype, layout) = (Scale::None, DType::F32, Layout::Bhnd);
        Self { batch, heads, len, dim, scale, gated: true, eps: 1e-6, dtype, layout }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        for (axis, length) in [("B", self.batch), ("H", self.heads), ("N", self.len), ("E", self.dim)] {
            if length == 0 {
                return Err(Error::setting(NAME, axis, "1 or more", "0"));
            }
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(Error::setting(NAME, "eps", "a finite number of 0 or more", self.eps.to_string()));
        }
        if !self.dtype.is_float() {
            return Err(Error::tensor(NAME, "x", "f32 or f16", self.dtype.name()));
        }
        check_memory(NAME, &self.slots())
    }

    fn rows(&self) -> usize {
        self.batch * self.heads * self.len
    }

    /// Number of rows from one head to the next.
    fn inner(&self) -> usize {
        if self.layout == Layout::Bhnd { self.len } else { 1 }
    }

    fn scale_shape(&self) -> Option<Shape> {
        match self.scale {
            Scale::None => None,
            Scale::Shared => Some([self.dim].into()),
            Scale::PerHead => Some([self.heads, self.dim].into()),
        }
    }

    /// Index of the first element of a row's scale.
    fn scale_at(&self, row: usize) -> usize {
        if self.scale == Scale::PerHead { row / self.inner() % self.heads * self.dim } else { 0 }
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let x = read("x");
        let gate = self.gated.then(|| read("gate"));
        let scale = if self.scale == Scale::None { vec![T::of(1.0); self.dim] } else { read("scale") };
        let wanted = rows.of(self.len);
        let one = T::of(1.0);
        let mut y = Vec::new();
        for row in 0..self.rows() {
            let token = if self.layout == Layout::Bhnd { row % self.len } else { row / self.heads % self.len };
            if !wanted.contains(&token) {
                continue;
            }
            let own = row * self.dim..(row + 1) * self.dim;
            let square = float::dot(&x[own.clone()], &x[own.clone()]) / T::of(self.dim as f64);
            let root = (square + T::of(f64::from(self.eps))).sqrt();
            let scale = &scale[self.scale_at(row)..][..self.dim];
            y.extend(own.zip(scale).map(|(at, &scale)| {
                let normed = x[at] / root * scale;
                gate.as_ref().map_or(normed, |gate| normed / (one + (T::of(0.0) - gate[at]).exp())).wide()
            }));
        }
        vec![("y", y)]
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let shape = self.layout.shape(self.batch, self.heads, self.len, self.dim);
        let slot = |name, access| Slot::plain(name, access, self.dtype, shape.clone());
        let mut slots = vec![slot("x", Access::Read), slot("y", Access::Write)];
        slots.extend(self.gated.then(|| slot("gate", Access::Read)));
        slots.extend(self.scale_shape().map(|shape| Slot::plain("scale", Access::Read, DType::F32, shape)));
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        check_indices(NAME, &self.slots())?;
        let params = Params {
            rows: self.rows() as u32,
            dim: self.dim as u32,
            heads: self.heads as u32,
            inner: self.inner() as u32,
            eps: self.eps,
            ..Params::default()
        };
        let kind = match self.scale {
            Scale::None => 0,
            Scale::Shared => 1,
            Scale::PerHead => 2,
        };
        // If a tensor is absent, the kernel binds a few bytes of workspace instead and does not read them.
        let slots = self.slots();
        let place = |name| slots.iter().position(|slot| slot.name == name);
        let operand = |name| place(name).map_or(Operand::Workspace(0), Operand::Slot);
        let operands = ["x", "gate", "scale", "y"].map(|name| (name, operand(name)));
        let absent = self.scale == Scale::None || !self.gated;
        let workspace = absent.then_some(Scratch { name: "absent", bytes: 16 }).into_iter().collect();
        let elements = (self.rows() * self.dim) as f64;
        let scales = if self.scale == Scale::None { 0.0 } else { elements * 4.0 };
        let streams = if self.gated { 3.0 } else { 2.0 }; // x twice
        let bytes_read = elements * streams * self.dtype.size() as f64 + scales;
        let spec = Variant::new(self.dtype, vec![], vec![("SCALE", kind), ("GATED", self.gated.into())]);
        let groups = self.rows().div_ceil(ROWS);
        let step = Step::new(&GATE, spec, &params, &operands, groups as u64, Cost { bytes_read, ..self.cost() });
        Ok(Program::new(NAME, format!("{ROWS} rows a workgroup"), slots, workspace, vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        use rayon::prelude::*;
        let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        let (mut y, gate, scale) = (read("x"), read("gate"), read("scale"));
        y.par_chunks_exact_mut(self.dim).enumerate().for_each(|(row, y)| {
            let root = 1.0 / (simd::dot(y, y) / self.dim as f32 + self.eps).sqrt();
            simd::scale(y, root);
            if !scale.is_empty() {
                simd::multiply(y, &scale[self.scale_at(row)..][..self.dim]);
            }
            if self.gated {
                sigmoids(y, &gate[row * self.dim..][..self.dim]);
            }
        });
        let shape = self.layout.shape(self.batch, self.heads, self.len, self.dim);
        [("y".to_owned(), HostTensor::f32(shape, y).cast(self.dtype))].into_iter().collect()
    }

    fn cost(&self) -> Cost {
        let (elements, size) = ((self.rows() * self.dim) as f64, self.dtype.size() as f64);
        let scale = self.scale_shape().map_or(0, |shape| shape.count()) as f64 * 4.0;
        let gates = if self.gated { elements } else { 0.0 };
        Cost {
            flops: 3.0 * elements + 2.0 * gates,
            exps: gates,
            bytes_read: (elements + gates) * size + scale,
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
        cpu: crate::operator::CpuBackend { run: Self::cpu, variant: |_| "row after row".into() },
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
        y,
    }
    optional {
        /// The same shape as `x`: logits of the gate; required if the configuration has a gate, otherwise refused.
        gate,
        /// `[E]` or `[H, E]`, f32; required if the configuration has a scale, otherwise refused.
        scale,
    }
}
