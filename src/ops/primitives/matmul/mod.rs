//! Products with weights: the linear layer, and what follows it element by element.
//!
//! ```text
//! o = residual + scale * (act(x w^T + bias) * times)
//! ```
//!
//! x has N rows of K elements, the weight M rows of K. Sums are f32 whatever the storage types are. `bias` is per row of the
//! weight; `times` and `residual` have the shape of o. What is absent is left out: a bias of 0, a factor of 1, a residual of 0.
//!
//! The rows of the weight may be consecutive blocks for several outputs ([`Output`]), so that projections of one input are one
//! product. Each output is a tensor of its own, `[N, width]` or transposed `[width, N]`, and all lie in one buffer
//! ([`Config::parts`]):
//!
//! ```no_run
//! use subquad::ops::primitives::matmul::{Config, Output, Tensors};
//! use subquad::{Context, Tensor};
//!
//! /// Queries, keys and values of 100 tokens by one weight [192, 64]; the values have the channels first.
//! fn projected(ctx: &Context, x: &Tensor, weight: &Tensor, o: &Tensor) -> Result<[Tensor; 3], subquad::Error> {
//!     let values = Output { columns: true, ..Output::new(64) };
//!     let config = Config { outputs: vec![Output::new(64), Output::new(64), values], ..Config::new(100, 64, 0) };
//!     let mut encoder = ctx.device().create_command_encoder(&Default::default());
//!     config.plan(ctx)?.bind(Tensors::new(x, weight, o))?.encode(&mut encoder);
//!     ctx.queue().submit([encoder.finish()]);
//!     // Views of the three parts, each with its own shape.
//!     let part = |i: usize| {
//!         let (bytes, shape) = (config.bytes(i), config.shape(i));
//!         Tensor::view(o.buffer(), o.offset() + bytes.start..o.offset() + bytes.end, shape, config.dtype)
//!     };
//!     Ok([part(0)?, part(1)?, part(2)?])
//! }
//! ```

#[cfg(feature = "cpu")]
mod cpu;
mod forms;
mod layout;
mod reference;

use std::ops::Range;

use super::check_lengths;
use crate::error::Error;
use crate::gpu::program::{Cost, check_memory};
use crate::operator::{Algorithm, Configured, tensors};
use crate::tensor::{Access, DType, Part, Shape, Slot};

const NAME: &str = "matmul";

/// Most outputs of one product.
pub const MAX_OUTPUTS: usize = 8;

/// Names of the outputs.
const NAMES: [&str; MAX_OUTPUTS] = ["o", "o1", "o2", "o3", "o4", "o5", "o6", "o7"];

/// Bytes that the start of an output in its buffer is a multiple of, as views of it need.
const ALIGN: usize = 256;

/// The function between the sums and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The sums as they are.
    None,
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x (1 + erf(x / sqrt 2)) / 2`.
    Gelu,
    /// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2`.
    Relu2,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `-ln(1 + e^-x)`.
    LogSigmoid,
}

impl Activation {
    /// Every activation by the name that a flag gives it.
    pub(crate) const NAMED: [(&'static str, Self); 8] = [
        ("none", Self::None),
        ("silu", Self::Silu),
        ("gelu", Self::Gelu),
        ("gelu-tanh", Self::GeluTanh),
        ("relu", Self::Relu),
        ("relu2", Self::Relu2),
        ("sigmoid", Self::Sigmoid),
        ("log-sigmoid", Self::LogSigmoid),
    ];

    /// The activation that a flag names.
    #[cfg(feature = "catalog")]
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, activation)| activation)
    }

    /// Exponentials of one element.
    fn exps(self) -> f64 {
        if matches!(self, Self::None | Self::Relu | Self::Relu2) { 0.0 } else { 1.0 }
    }
}

/// A block of rows of the weight whose products are a tensor of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Rows of the weight.
    pub width: usize,
    /// Whether the output is `[width, N]` instead of `[N, width]`.
    pub columns: bool,
}

impl Output {
    /// An output `[N, width]`.
    pub const fn new(width: usize) -> Self {
        Self { width, columns: false }
    }
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// N: rows of x.
    pub rows: usize,
    /// K: columns of x and of the weight.
    pub inner: usize,
    /// The outputs, 1 to [`MAX_OUTPUTS`]; M is the sum of their widths.
    pub outputs: Vec<Output>,
    /// Whether x is `[K, N]` instead of `[N, K]`.
    pub x_columns: bool,
    /// Storage type of x, times, residual and o: f32 or f16.
    pub dtype: DType,
    /// Storage type of the weight: f32 or f16. A GPU needs no f16 for it.
    pub weight: DType,
    /// Whether there is a bias.
    pub bias: bool,
    /// The function of the sums.
    pub activation: Activation,
    /// Whether there are factors; only with one output.
    pub times: bool,
    /// Whether there is a residual; only with one output.
    pub residual: bool,
    /// Factor of everything but the residual.
    pub scale: f32,
}

impl Config {
    /// One output `[rows, width]` of x `[rows, inner]` in f32, without anything that follows the sums.
    pub fn new(rows: usize, inner: usize, width: usize) -> Self {
        Self {
            rows,
            inner,
            outputs: vec![Output::new(width)],
            x_columns: false,
            dtype: DType::F32,
            weight: DType::F32,
            bias: false,
            activation: Activation::None,
            times: false,
            residual: false,
            scale: 1.0,
        }
    }

    /// M: rows of the weight.
    pub fn width(&self) -> usize {
        self.outputs.iter().fold(0, |sum, output| sum.saturating_add(output.width))
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        check_lengths(NAME, [("N", self.rows), ("K", self.inner)])?;
        if !(1..=MAX_OUTPUTS).contains(&self.outputs.len()) {
            let (expected, found) = (format!("1 to {MAX_OUTPUTS}"), self.outputs.len().to_string());
            return Err(Error::setting(NAME, "outputs", expected, found));
        }
        for output in &self.outputs {
            check_lengths(NAME, [("M", output.width)])?;
        }
        for (setting, given) in [("times", self.times), ("residual", self.residual)] {
            if given && self.outputs.len() > 1 {
                let problem = format!(" needs one output, found {}", self.outputs.len());
                return Err(Error::rule(NAME, setting, problem));
            }
        }
        if !self.scale.is_finite() {
            return Err(Error::setting(NAME, "scale", "a finite number", self.scale.to_string()));
        }
        for (tensor, dtype) in [("x", self.dtype), ("weight", self.weight)] {
            if !dtype.is_float() {
                return Err(Error::tensor(NAME, tensor, "f32 or f16", dtype.name()));
            }
        }
        check_memory(NAME, &self.slots())
    }

    /// Shape of an output.
    ///
    /// # Panics
    /// If there is no output of that index.
    pub fn shape(&self, output: usize) -> Shape {
        let Output { width, columns } = self.outputs[output];
        if columns { [width, self.rows].into() } else { [self.rows, width].into() }
    }

    /// Bytes of an output within the buffer `o`.
    ///
    /// # Panics
    /// If there is no output of that index.
    pub fn bytes(&self, output: usize) -> Range<u64> {
        let (part, size) = (&self.parts()[output], self.dtype.size() as u64);
        let start = part.offset as u64 * size;
        start..start + part.shape.count() as u64 * size
    }

    /// The outputs as parts of the buffer `o`: each starts at a multiple of 256 bytes.
    pub fn parts(&self) -> Vec<Part> {
        let align = ALIGN / self.dtype.size();
        let mut offset = 0usize;
        let part = |(at, name)| {
            let part = Part { offset, ..Part::new(name, self.shape(at), self.dtype) };
            // Saturates: a slot that is too large for any memory is refused by its size.
            let count = part.shape.checked_count().and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
            offset = offset.saturating_add(count).checked_next_multiple_of(align).unwrap_or(usize::MAX);
            part
        };
        NAMES.into_iter().take(self.outputs.len()).enumerate().map(part).collect()
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let x: Shape = if self.x_columns { [self.inner, self.rows].into() } else { [self.rows, self.inner].into() };
        let like_o = |name| Slot::plain(name, Access::Read, self.dtype, self.shape(0));
        let mut slots = vec![
            Slot::plain("x", Access::Read, self.dtype, x),
            Slot::plain("weight", Access::Read, self.weight, [self.width(), self.inner]),
        ];
        slots.extend(self.bias.then(|| Slot::plain("bias", Access::Read, DType::F32, [self.width()])));
        slots.extend(self.times.then(|| like_o("times")));
        slots.extend(self.residual.then(|| like_o("residual")));
        slots.push(Slot { name: "o", access: Access::Write, dtype: self.dtype, parts: self.parts() });
        slots
    }

    fn cost(&self) -> Cost {
        let [n, k, m] = [self.rows, self.inner, self.width()].map(|length| length as f64);
        let like_o = f64::from(u8::from(self.times)) + f64::from(u8::from(self.residual));
        let size = self.dtype.size() as f64;
        Cost {
            flops: 2.0 * n * k * m,
            exps: n * m * self.activation.exps(),
            bytes_read: (n * k + like_o * n * m) * size
                + m * k * self.weight.size() as f64
                + if self.bias { m * 4.0 } else { 0.0 },
            bytes_written: n * m * size,
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
        program: layout::program,
        reference: [reference::outputs::<f32>, reference::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(cpu::run, cpu::variant).in_place(cpu::update),
    };
}

tensors! {
    /// Tensors on the GPU.
    required {
        /// `[N, K]`, or `[K, N]` if `x_columns` is set.
        x,
        /// `[M, K]`.
        weight,
        /// The outputs, written: one `[N, M]` or `[M, N]`, or all in one buffer ([`Config::parts`]). Its buffer is none that is read.
        o,
    }
    optional {
        /// `[M]`, f32; required if the configuration has a bias, otherwise refused.
        bias,
        /// The shape of `o`; required if the configuration has factors, otherwise refused.
        times,
        /// The shape of `o`; required if the configuration has a residual, otherwise refused.
        residual,
    }
}
