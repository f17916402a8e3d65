//! Exact attention with the Yat kernel. A query gives more weight to keys that are both aligned with it and near it.
//!
//! For every batch entry and query head `h`, which reads key head `h / (H / G)`:
//!
//! ```text
//! s_ij = x^2 / (2 + epsilon - 2 x)                       spherical: x = q_i . k_j / (|q_i| |k_j|)
//! s_ij = (q_i . k_j)^2 / (|q_i - k_j|^2 + epsilon)       euclidean
//!
//! o_i = sum_j s_ij v_j / (sum_j s_ij + norm_eps)         norm kernel
//! o_i = sum_j softmax_j(s_ij) v_j                        norm softmax
//! ```
//!
//! The sums run over the keys j that query i sees: all keys; if causal, those with `j <= i + M - N` (the last query is
//! aligned with the last key, as with a cache), or with `j <= i` ([`Align`]). Key counts for each batch entry and packed
//! sequences are as in softmax. A query that sees no key, or has no weight, gives zeros. Lengths are at least 1e-12, so that a
//! zero vector has score 0. The largest spherical score is `1 / epsilon`, for a key in the direction of the query.
//!
//! Source: "SLAY: Geometry-aware spherical linearized attention with Yat-kernel" (arXiv 2602.04915), equations 1 to 5,
//! and its code, azettaai/slay. There are two norms because the paper and the code disagree: the paper divides by the
//! sum of the kernel, which its linear form approximates, and so does the code's spherical baseline; the code's
//! `Yat (Exact)` baseline takes the softmax of the euclidean kernel.
//!
//! The squared distance in the denominator is computed as the sum of two squares minus twice a product. If the vectors
//! are near each other, this difference is mostly rounding error. Below 1/32 of the sum of squares, the distance is
//! therefore computed from the vectors themselves, which are read again. The results are then more exact than the
//! formula in f32, from whose error the tolerance is derived.
//!
//! q, k, v and o may be strided tensors ([`Tensor::strided`](crate::tensor::Tensor::strided)).
//!
//! Cost: `2 (D + E)` flops per pair of a query and a key that it sees. Exponentials are needed only for norm softmax.
//! There is no workspace except for few queries: the tiled and the split-K form are those of softmax.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod reference;
#[cfg(feature = "catalog")]
mod row;

use crate::cores::attention::{self, Extras, Mask};
use crate::error::Error;
use crate::gpu::program::Cost;
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, tensors};
use crate::tensor::{Slot, TensorMap};

pub use crate::operator::pairs::Align;

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "yat";

/// The kernel: the score of a query and a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// `x^2 / (2 + epsilon - 2 x)`, where x is the product of both after division by their lengths.
    Spherical,
    /// `(q . k)^2 / (|q - k|^2 + epsilon)`.
    Euclidean,
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Norm {
    /// Each score is divided by their sum plus [`Config::norm_eps`].
    Kernel,
    /// The softmax of the scores.
    Softmax,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage type and axis order. Any D and E.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to its own.
    pub causal: bool,
    /// Which key is a causal query's own if M and N differ.
    pub align: Align,
    /// Whether a tensor `lengths` `[B]` says how many of the M keys each batch entry has. The others are not read, and causal
    /// queries are aligned at that length in the place of M. A kernel takes a length above M as M. A run takes the lengths
    /// that are in the buffer then, so that one plan and one recording serve a cache that grows.
    pub lengths: bool,
    /// S: number of sequences that are packed one after another into the one batch entry, whose borders are the values of a
    /// tensor `cu_seqlens` `[S+1]`, from 0 to N = M.
    pub sequences: Option<usize>,
    /// The kernel.
    pub kernel: Kernel,
    /// How its values become weights.
    pub norm: Norm,
    /// Added to the kernel's denominator; must be above 0.
    pub epsilon: f32,
    /// Added to the sum of the kernel; 0 or more. [`Norm::Softmax`] does not use it.
    pub norm_eps: f32,
}

impl Config {
    /// Causal, with the spherical kernel, divided by the sum of the kernel.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            causal: true,
            align: Align::End,
            lengths: false,
            sequences: None,
            kernel: Kernel::Spherical,
            norm: Norm::Kernel,
            epsilon: 1e-3,
            norm_eps: 1e-6,
        }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.qkv.validate(NAME)?;
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::setting(NAME, "epsilon", "a finite number above 0", self.epsilon.to_string()));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps.to_string()));
        }
        self.extras().check(NAME, &self.qkv, self.rule())
    }

    /// The rule by which a query sees keys.
    fn rule(&self) -> Mask {
        Mask { causal: self.causal, window: None, align: self.align }
    }

    fn extras(&self) -> Extras {
        Extras { lengths: self.lengths, sequences: self.sequences, ..Extras::default() }
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        self.qkv.slots().into_iter().chain(self.extras().slots(&self.qkv)).collect()
    }

    fn cost(&self) -> Cost {
        let cost = attention::essential(&self.qkv, self.rule()) + self.extras().essential(&self.qkv, self.rule());
        match self.norm {
            Norm::Kernel => Cost { exps: 0.0, ..cost },
            Norm::Softmax => cost,
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
        cpu: crate::operator::CpuBackend::new(cpu::run, |_| crate::cores::attention::cpu::variant()),
    };

    fn check_values(&self, tensors: &TensorMap) -> Result<(), Error> {
        self.extras().check_values(NAME, &self.qkv, tensors)
    }
}

tensors! {
    /// Tensors on the GPU, with the shapes of the module's formula.
    required {
        /// `[B, H, N, D]`.
        q,
        /// `[B, G, M, D]`.
        k,
        /// `[B, G, M, E]`.
        v,
        /// `[B, H, N, E]`, written.
        o,
    }
    optional {
        /// `[B]`, u32; given if and only if [`Config::lengths`].
        lengths,
        /// `[S+1]`, u32; given if and only if [`Config::sequences`].
        cu_seqlens,
    }
}
