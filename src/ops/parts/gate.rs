//! What a layer puts around its memory: a norm of every head's output and a sigmoid gate, so that a RAM-Net block needs
//! only its projections from outside.
//!
//! ```text
//! y = x / sqrt(mean_e x^2 + eps) * scale * sigmoid(gate)
//! ```
//!
//! over rows of E, one for each batch entry, head and token; without a scale it is 1, without a gate its sigmoid is.
//! Without one it is the norm behind [`ssd`](crate::ops::ssd), whose z gates before it: a group of channels is a head
//! here, a weight of all channels a scale a head. Source: arXiv 2602.11958's companion site; spec/ramnet.md 1.6. Record
//! it behind the operator whose `o` is its `x`:
//!
//! ```no_run
//! use subquad::gpu::{Context, Plan, Workspace};
//! use subquad::ops::{self, parts::gate, ramnet};
//! use subquad::tensor::Tensor;
//!
//! /// `inner` is scratch of the shape of `y`.
//! fn block(
//!     ctx: &Context,
//!     [memory, norm]: [&Plan; 2], // of ramnet::Config::new(1, 8, 4096, 5, 64) and gate::Config::new(1, 8, 4096, 64)
//!     [q, k, v, gamma, gate, inner, y]: [&Tensor; 7],
//!     workspace: &Workspace,
//!     encoder: &mut wgpu::CommandEncoder,
//! ) -> Result<(), subquad::Error> {
//!     let tensors = ramnet::Tensors { q, k, v, gamma, o: inner, state: None };
//!     ramnet::bind(memory, tensors, workspace)?.encode(encoder);
//!     gate::bind(norm, gate::Tensors { x: inner, gate: Some(gate), scale: None, y }, workspace)?.encode(encoder);
//!     Ok(())
//! }
//! ```

use super::{Params, TYPES, kernel};
use crate::error::Error;
use crate::gpu::program::{Operand, Program, Scratch, check_indices, check_memory};
use crate::gpu::source::{Bind, Kernel, source};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::ops::float::{self, Float};
use crate::ops::{Cost, Definition, Operator, Precision, Rows};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Layout, Shape, Slot, Tensor, TensorMap};

const NAME: &str = "gate";

/// Whether the norm has a learned scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scale {
    /// None.
    None,
    /// One for all heads: `[E]`.
    Shared,
    /// One a head: `[H, E]`.
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
    /// E: dimensions of a head.
    pub dim: usize,
    /// Whether there is a scale.
    pub scale: Scale,
    /// Whether there is a gate.
    pub gated: bool,
    /// Added to the mean square.
    pub eps: f32,
    /// Storage of x, gate and y: f32 or f16.
    pub dtype: DType,
    /// Axis order of x, gate and y.
    pub layout: Layout,
}

/// Rows of a workgroup.
const ROWS: usize = 4;

static GATE: Kernel = kernel(
    "parts_gate",
    &[TYPES, source!("parts/gate.wgsl")],
    &[("x", Bind::Read), ("gate", Bind::Read), ("scale", Bind::Read), ("y", Bind::Write)],
);

impl Config {
    /// f32 in layout bhnd, gated, without a scale, eps 1e-6.
    pub fn new(batch: usize, heads: usize, len: usize, dim: usize) -> Self {
        let (scale, dtype, layout) = (Scale::None, DType::F32, Layout::Bhnd);
        Self { batch, heads, len, dim, scale, gated: true, eps: 1e-6, dtype, layout }
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the setting.
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

    /// Rows from one head to the next.
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

    /// Where the scale of a row starts.
    fn scale_at(&self, row: usize) -> usize {
        if self.scale == Scale::PerHead { row / self.inner() % self.heads * self.dim } else { 0 }
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> Definition {
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
}

impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let shape = self.layout.shape(self.batch, self.heads, self.len, self.dim);
        let slot = |name, access| Slot::plain(name, access, self.dtype, shape.clone());
        let mut slots = vec![slot("x", Access::Read), slot("y", Access::Write)];
        slots.extend(self.gated.then(|| slot("gate", Access::Read)));
        slots.extend(self.scale_shape().map(|shape| Slot::plain("scale", Access::Read, DType::F32, shape)));
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        self.validate()?;
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
        // In place of what is absent the kernel binds a few bytes of workspace, of which it reads nothing.
        let slots = self.slots();
        let place = |name| slots.iter().position(|slot| slot.name == name);
        let operand = |name| place(name).map_or(Operand::Workspace(0), Operand::Slot);
        let operands: Vec<_> = GATE.bindings.iter().map(|(name, _)| operand(*name)).collect();
        let absent = self.scale == Scale::None || !self.gated;
        let workspace = absent.then_some(Scratch { name: "absent", bytes: 16 }).into_iter().collect();
        let elements = (self.rows() * self.dim) as f64;
        let scales = if self.scale == Scale::None { 0.0 } else { elements * 4.0 };
        let streams = if self.gated { 3.0 } else { 2.0 }; // x twice
        let bytes_read = elements * streams * self.dtype.size() as f64 + scales;
        let spec = super::spec(self.dtype, vec![], vec![("SCALE", kind), ("GATED", self.gated.into())]);
        let groups = self.rows().div_ceil(ROWS);
        let step = super::step(&GATE, spec, &params, operands, groups, Cost { bytes_read, ..self.cost() });
        Ok(Program::new(NAME, format!("{ROWS} rows a workgroup"), slots, workspace, vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        use crate::ops::cpu;
        use rayon::prelude::*;
        self.validate()?;
        check_inputs(NAME, &self.slots(), tensors)?;
        let read = |name: &str| tensors.get(name).map(HostTensor::to_f32).unwrap_or_default();
        let (mut y, gate, scale) = (read("x"), read("gate"), read("scale"));
        y.par_chunks_exact_mut(self.dim).enumerate().for_each(|(row, y)| {
            let root = 1.0 / (cpu::dot(y, y) / self.dim as f32 + self.eps).sqrt();
            cpu::scale(y, root);
            if !scale.is_empty() {
                cpu::multiply(y, &scale[self.scale_at(row)..][..self.dim]);
            }
            if self.gated {
                sigmoids(y, &gate[row * self.dim..][..self.dim]);
            }
        });
        let shape = self.layout.shape(self.batch, self.heads, self.len, self.dim);
        Ok([("y".to_owned(), HostTensor::f32(shape, y).cast(self.dtype))].into_iter().collect())
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

#[cfg(feature = "cpu")]
crate::ops::cpu::wide! {
    /// `x *= sigmoid(gate)`.
    fn sigmoids(x: &mut [f32], gate: &[f32]) {
        for (x, gate) in x.iter_mut().zip(gate) {
            *x /= 1.0 + crate::ops::cpu::exp_signed(-*gate);
        }
    }
}

/// Tensors on the GPU.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[B, H, N, E]`.
    pub x: &'a Tensor,
    /// As `x`: logits of the gate; given if and only if the configuration has it.
    pub gate: Option<&'a Tensor>,
    /// `[E]` or `[H, E]`, f32; given if and only if the configuration has it.
    pub scale: Option<&'a Tensor>,
    /// As `x`, written.
    pub y: &'a Tensor,
}

/// Binds the tensors of a [`plan`](crate::ops::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { x, gate, scale, y } = tensors;
    let mut named = vec![("x", x), ("y", y)];
    named.extend(gate.map(|gate| ("gate", gate)));
    named.extend(scale.map(|scale| ("scale", scale)));
    plan.bind(&named, workspace)
}
