//! The layer around a memory or a mixer: a norm of every row, and a gate.
//!
//! ```text
//! o = (norm(x) * weight + bias) * act(gate)
//!
//! norm(x) = x / sqrt(mean_e x^2 + eps)                  Kind::Rms
//!         = (x - mean) / sqrt(mean_e (x - mean)^2 + eps)  Kind::Layer, mean = mean_e x
//!         = x                                           Kind::None
//! act(g)  = 1 / (1 + e^-g)                              Gate::Sigmoid
//!         = g / (1 + e^-g)                              Gate::Silu
//! ```
//!
//! Rows have length E; there is one for each batch entry, head and token. Without a weight the weight is 1, without a bias the
//! bias is 0, without a gate the activation is 1. A hidden state `[N, E]` is rows of one head. Sources: RMSNorm (arXiv 1910.07467,
//! equation 4) and LayerNorm (arXiv 1607.06450, equation 4, with the variance as torch has it, over E and not E - 1).
//!
//! With Kind::Rms and a sigmoid gate it is the layer around a RAM-Net memory (arXiv 2602.11958's companion site;
//! spec/ramnet.md 1.6), whose block then needs only its projections from outside. Without a gate it is the norm that follows
//! [`ssd`](crate::ops::ssd), whose z gates before the norm: a group of channels is then a head, and a weight for all channels is
//! a weight per head.
//!
//! On a GPU, the invocations of a workgroup share rows of more than 64 pieces of four columns (one column, if E is no multiple
//! of four), one row a workgroup; of shorter rows a workgroup has several. A row is read once, unless it has more pieces than
//! invocations keep. x and gate may be [strided](crate::tensor::Tensor::strided). Record it after the operator whose `o` is its `x`:
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

use std::mem::offset_of;

use super::{PROOF, Tokens, check_lengths, columns};
use crate::cores::lanes::reducing;
#[cfg(feature = "cpu")]
use crate::cpu::{simd, threads};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, Strided, check_indices, check_memory};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::{STRIDES_SOURCE, Strides, strides_of};
use crate::operator::{Algorithm, Configured, ReferenceOutputs, Rows, tensors};
#[cfg(feature = "cpu")]
use crate::tensor::HostTensor;
use crate::tensor::{Access, DType, Shape, Slot, TensorMap};
use crate::verify::float::{self, Float};

const NAME: &str = "norm";

/// What a row is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Nothing: only weight, bias and gate change it.
    None,
    /// The root of its mean square.
    Rms,
    /// The root of its variance, after its mean is subtracted.
    Layer,
}

/// Whether the norm has a learned weight, or a learned bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weight {
    /// None.
    None,
    /// One for all heads: `[E]`.
    Shared,
    /// One per head: `[H, E]`.
    PerHead,
}

/// The activation of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gate {
    /// `1 / (1 + e^-g)`.
    Sigmoid,
    /// `g / (1 + e^-g)`, also called swish.
    Silu,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The rows of x.
    pub tokens: Tokens,
    /// E: columns of a row.
    pub dim: usize,
    /// What a row is divided by.
    pub kind: Kind,
    /// Whether there is a weight.
    pub weight: Weight,
    /// Whether there is a bias.
    pub bias: Weight,
    /// The activation of the gate, if there is one.
    pub gate: Option<Gate>,
    /// Added to the mean square or to the variance.
    pub eps: f32,
    /// Storage type of x, gate and o: f32 or f16.
    pub dtype: DType,
}

params! {
    /// Must match `struct Params` in `shaders/primitives/norm_types.wgsl`.
    struct Params {
        grid: Grid,
        rows: u32,
        dim: u32,
        heads: u32,
        len: u32,
        entry: u32,
        inner: u32,
        step: u32,
        eps: f32,
        x: Strides,
        gate: Strides,
    }
}

static NORM: Kernel = Kernel::new(
    "primitives_gated_norm",
    &[STRIDES_SOURCE, fragment!("primitives/norm_types.wgsl"), fragment!("primitives/gated_norm.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

const KEPT: Fragment = fragment!("primitives/row_kept.wgsl");
const LOADED: Fragment = fragment!("primitives/row_loaded.wgsl");
const SUM_LANES: Fragment = fragment!("primitives/sum_lanes.wgsl");
const SUM_WORKGROUP: Fragment = fragment!("primitives/sum_workgroup.wgsl");

/// Invocations of a workgroup.
const INVOCATIONS: usize = 256;
/// Rows of more pieces are shared by a whole workgroup.
const SHORT: usize = 64;
/// Most pieces that an invocation keeps, in registers.
const MOST_KEPT: usize = 16;

impl Weight {
    /// Shape of a weight or bias for rows of these heads and columns.
    fn shape(self, [heads, dim]: [usize; 2]) -> Option<Shape> {
        match self {
            Self::None => None,
            Self::Shared => Some([dim].into()),
            Self::PerHead => Some([heads, dim].into()),
        }
    }
}

impl Config {
    /// RMS norm in f32, with a sigmoid gate, without weight and bias, eps 1e-6.
    pub fn new(tokens: impl Into<Tokens>, dim: usize) -> Self {
        Self {
            tokens: tokens.into(),
            dim,
            kind: Kind::Rms,
            weight: Weight::None,
            bias: Weight::None,
            gate: Some(Gate::Sigmoid),
            eps: 1e-6,
            dtype: DType::F32,
        }
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

    /// Weight and bias, with their names.
    fn weights(&self) -> [(&'static str, Weight); 2] {
        [("weight", self.weight), ("bias", self.bias)]
    }

    /// What a weight or bias has for a row, of the elements that all rows have together; nothing if there is none.
    fn of_row<'w, T>(&self, values: &'w [T], of: Weight, row: usize) -> Option<&'w [T]> {
        let head = if of == Weight::PerHead { self.tokens.place(row).1 } else { 0 };
        (of != Weight::None).then(|| &values[head * self.dim..][..self.dim])
    }

    fn outputs<T: Float>(&self, tensors: &TensorMap, rows: Rows<'_>) -> ReferenceOutputs {
        let read = |name: &str| float::read::<T>(tensors, name).unwrap_or_else(|| panic!("tensor {name} is missing"));
        let x = read("x");
        let gate = self.gate.map(|act| (act, read("gate")));
        let [weight, bias] = self.weights().map(|(name, of)| if of == Weight::None { Vec::new() } else { read(name) });
        let (width, eps) = (T::of(self.dim as f64), T::of(f64::from(self.eps)));
        let mut o = Vec::new();
        for row in self.tokens.wanted(rows) {
            let own = row * self.dim..(row + 1) * self.dim;
            let mut values = x[own.clone()].to_vec();
            if self.kind == Kind::Layer {
                let mean = values.iter().fold(T::of(0.0), |sum, &x| sum + x) / width;
                values.iter_mut().for_each(|x| *x = *x - mean);
            }
            if self.kind != Kind::None {
                let root = (float::dot(&values, &values) / width + eps).sqrt();
                values.iter_mut().for_each(|x| *x = *x / root);
            }
            if let Some(weight) = self.of_row(&weight, self.weight, row) {
                values.iter_mut().zip(weight).for_each(|(x, &weight)| *x = *x * weight);
            }
            if let Some(bias) = self.of_row(&bias, self.bias, row) {
                values.iter_mut().zip(bias).for_each(|(x, &bias)| *x += bias);
            }
            if let Some((act, gate)) = &gate {
                let act = if *act == Gate::Silu { float::silu::<T> } else { float::sigmoid::<T> };
                values.iter_mut().zip(&gate[own]).for_each(|(x, &gate)| *x = *x * act(gate));
            }
            o.extend(float::wide(values));
        }
        vec![("o", o)]
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let shape = self.tokens.shape(self.dim);
        let slot = |name, access| Slot::plain(name, access, self.dtype, shape.clone());
        let mut slots = vec![slot("x", Access::Read), slot("o", Access::Write)];
        slots.extend(self.gate.map(|_| slot("gate", Access::Read)));
        for (name, of) in self.weights() {
            let shape = of.shape([self.tokens.heads, self.dim]);
            slots.extend(shape.map(|shape| Slot::plain(name, Access::Read, DType::F32, shape)));
        }
        slots
    }

    /// Invocations that share a row which has so many pieces: a power of two.
    fn lanes(pieces: usize) -> usize {
        if pieces > SHORT { INVOCATIONS } else { pieces.next_power_of_two() }
    }

    /// Whether invocations keep their pieces of a row, of which each of so many lanes has some.
    fn keeps(&self, columns: usize, lanes: usize) -> bool {
        self.kind != Kind::None && (self.dim / columns).div_ceil(lanes) <= MOST_KEPT
    }

    /// The kernel for pieces of so many columns.
    fn variant(&self, columns: usize, lanes: usize, caps: &Caps) -> Variant {
        let index = |of| match of {
            Weight::None => 0,
            Weight::Shared => 1,
            Weight::PerHead => 2,
        };
        let overrides = vec![
            ("KIND", self.kind as u32),
            ("WEIGHTS", index(self.weight)),
            ("BIASES", index(self.bias)),
            ("GATE", self.gate.map_or(0, |gate| 1 + gate as u32)),
        ];
        let pieces = (self.dim / columns).div_ceil(lanes);
        let mut consts = vec![("LANES", lanes as u32), ("PIECES", pieces as u32)];
        let row = if self.keeps(columns, lanes) { KEPT } else { LOADED };
        if lanes < INVOCATIONS {
            return Variant::new(self.dtype, consts, overrides).with(&[columns::of(columns), row, SUM_LANES]);
        }
        consts.extend([("INVOCATIONS", INVOCATIONS as u32), ("REDUCED", 1)]);
        let spec = reducing(Variant::new(self.dtype, consts, overrides), INVOCATIONS, caps);
        spec.with(&[columns::of(columns), row, SUM_WORKGROUP])
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        caps.require(NAME, self.dtype)?;
        check_indices(NAME, &self.slots())?;
        let tokens = &self.tokens;
        let strides = strides_of(tokens.layout, tokens.heads, tokens.len, self.dim);
        let params = Params {
            rows: tokens.rows() as u32,
            dim: self.dim as u32,
            heads: tokens.heads as u32,
            len: tokens.len as u32,
            entry: tokens.entry() as u32,
            inner: tokens.inner() as u32,
            step: tokens.step() as u32,
            eps: self.eps,
            x: strides,
            gate: strides,
            ..Params::default()
        };
        // If a tensor is absent, the kernel binds a few bytes of workspace instead and does not read them.
        let slots = self.slots();
        let place = |name| slots.iter().position(|slot| slot.name == name);
        let operand = |name| place(name).map_or(Operand::Workspace(0), Operand::Slot);
        let operands = ["x", "gate", "weight", "bias", "o"].map(|name| (name, operand(name)));
        let workspace = (slots.len() < operands.len()).then_some(Scratch { name: "absent", bytes: 16 });
        let columns = columns::most(&[self.dim]);
        let lanes = Self::lanes(self.dim / columns);
        let spec = self.variant(columns, lanes, caps);
        let narrow = (columns > 1).then(|| self.variant(1, lanes, caps));
        let rows = INVOCATIONS / lanes;
        let groups = tokens.rows().div_ceil(rows);
        let elements = (tokens.rows() * self.dim) as f64;
        // Each sum over a row is another pass.
        let again = if self.keeps(columns, lanes) { 0.0 } else { f64::from(self.kind as u32) };
        let weights = self.weights().iter().filter(|(_, of)| *of != Weight::None).count() as f64;
        let streams = if self.gate.is_some() { 2.0 } else { 1.0 };
        let bytes_read = elements * ((streams + again) * self.dtype.size() as f64 + weights * 4.0);
        let cost = Cost { bytes_read, ..self.cost() };
        let mut step = Step::new(&NORM, spec, &params, &operands, groups as u64, cost).or_narrow(narrow);
        let strided = [("x", offset_of!(Params, x)), ("gate", offset_of!(Params, gate))];
        // They are the first two operands.
        step.strided = strided
            .into_iter()
            .enumerate()
            .filter(|(_, (name, _))| place(name).is_some())
            .map(|(operand, (_, at))| Strided { operand, at, layout: tokens.layout, backward_from: None })
            .collect();
        let variant = format!("rows of {lanes} invocations");
        Ok(Program::new(NAME, variant, slots, workspace.into_iter().collect(), vec![step]))
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> TensorMap {
        let mut o = vec![0.0; self.tokens.rows() * self.dim];
        self.cpu_rows(tensors, &mut o);
        let o = HostTensor::f32(self.tokens.shape(self.dim), o).cast(self.dtype);
        [("o".to_owned(), o)].into_iter().collect()
    }

    /// Computes all rows.
    #[cfg(feature = "cpu")]
    fn cpu_rows(&self, tensors: &TensorMap, o: &mut [f32]) {
        let [x, gate, weight, bias] = ["x", "gate", "weight", "bias"].map(|name| super::floats(tensors, name));
        let (dim, width) = (self.dim, self.dim as f32);
        threads::each_mut(o, dim, ROW_FLOPS * dim as u64, |row, o| {
            let own = row * dim..(row + 1) * dim;
            o.copy_from_slice(&x[own.clone()]);
            if self.kind == Kind::Layer {
                let mean = simd::sum(o) / width;
                shift(o, -mean);
            }
            if self.kind != Kind::None {
                simd::scale(o, 1.0 / (simd::dot(o, o) / width + self.eps).sqrt());
            }
            if let Some(weight) = self.of_row(&weight, self.weight, row) {
                simd::multiply(o, weight);
            }
            if let Some(bias) = self.of_row(&bias, self.bias, row) {
                simd::add(o, bias);
            }
            match self.gate {
                None => {}
                Some(Gate::Sigmoid) => sigmoids(o, &gate[own]),
                Some(Gate::Silu) => silus(o, &gate[own]),
            }
        });
    }

    fn cost(&self) -> Cost {
        let (elements, size) = ((self.tokens.rows() * self.dim) as f64, self.dtype.size() as f64);
        let count = |(_, of): &(_, Weight)| of.shape([self.tokens.heads, self.dim]).map_or(0, |shape| shape.count());
        let given = self.weights().iter().map(count).sum::<usize>() as f64;
        let changes = self.weights().iter().filter(|(_, of)| *of != Weight::None).count() as f64;
        let gates = if self.gate.is_some() { elements } else { 0.0 };
        let norm = match self.kind {
            Kind::None => 0.0,
            Kind::Rms => 3.0,
            Kind::Layer => 5.0,
        };
        Cost {
            flops: (norm + changes) * elements + 3.0 * gates,
            exps: gates,
            bytes_read: (elements + gates) * size + given * 4.0,
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

/// Flops per element, about, by which rows are distributed over threads.
#[cfg(feature = "cpu")]
const ROW_FLOPS: u64 = 16;

#[cfg(feature = "cpu")]
simd::wide! {
    /// `x += y`.
    fn shift(x: &mut [f32], y: f32) {
        for x in x {
            *x += y;
        }
    }
}

#[cfg(feature = "cpu")]
simd::wide! {
    /// `x *= sigmoid(gate)`.
    fn sigmoids<FUSED>(x: &mut [f32], gate: &[f32]) {
        for (x, gate) in x.iter_mut().zip(gate) {
            *x /= 1.0 + simd::exp_signed::<FUSED>(-*gate);
        }
    }
}

#[cfg(feature = "cpu")]
simd::wide! {
    /// `x *= silu(gate)`.
    fn silus<FUSED>(x: &mut [f32], gate: &[f32]) {
        for (x, gate) in x.iter_mut().zip(gate) {
            *x *= gate / (1.0 + simd::exp_signed::<FUSED>(-*gate));
        }
    }
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[B, H, N, E]`; may be strided.
        x,
        /// The same shape as `x`, written.
        o,
    }
    optional {
        /// The same shape as `x`, may be strided: what the activation is taken of; required if the configuration has a gate,
        /// otherwise refused.
        gate,
        /// `[E]` or `[H, E]`, f32; required if the configuration has a weight, otherwise refused.
        weight,
        /// `[E]` or `[H, E]`, f32; required if the configuration has a bias, otherwise refused.
        bias,
    }
}
