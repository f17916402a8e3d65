//! Exact softmax attention. It is the baseline of the benches, and serves the attention layers of hybrid models.
//!
//! For every batch entry and query head `h`, which reads key head `h / (H / G)`:
//!
//! ```text
//! o_i = sum_j softmax_j(scale * q_i . k_j) v_j
//! ```
//!
//! The sum runs over the keys j that query i sees: all keys; if causal, those with `j <= i + M - N` (the last query is
//! aligned with the last key, as with a cache); with a window W, the last W of these. A query that sees no key gives
//! zeros. Source: Vaswani et al., "Attention is all you need" (arXiv 1706.03762), equation 1. It is computed tile by
//! tile with a running maximum and sum as in Milakov and Gimelshein (arXiv 1805.02867) and Dao et al. (arXiv
//! 2205.14135), so that no N x M matrix is ever stored.
//!
//! Values of keys that a query does not see have a weight of exactly zero, so finite values have no effect. A value
//! that is not finite may turn outputs of queries in the same tile into NaN.
//!
//! q, k, v and o may be strided tensors ([`Tensor::strided`](crate::tensor::Tensor::strided)).
//!
//! Cost: `2 (D + E)` flops per pair of a query and a key that it sees. There is no workspace, except in the split-K
//! form for few queries (up to eight rows per key head, or more rows that would leave the device idle with a long
//! cache): it stores `E + 2` floats per row and split of the keys.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod reference;
#[cfg(feature = "catalog")]
mod row;

use crate::cores::attention::{self, Mask};
use crate::error::Error;
use crate::gpu::program::Cost;
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, qkv, tensors};
use crate::tensor::Slot;

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "softmax";

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage type and axis order. Any D and E.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to i + M - N.
    pub causal: bool,
    /// Whether a tensor `lengths` `[B]` says how many of the M keys each batch entry has. The others are not read, and causal
    /// queries are aligned at that length in the place of M. A length above M counts as M. A run takes the lengths that are in
    /// the buffer then, so that one plan and one recording serve a cache that grows.
    pub lengths: bool,
    /// W: maximum number of keys per query, the last of which is its own key; only if causal.
    pub window: Option<usize>,
    /// Factor of the scores; `None` means `1 / sqrt(D)`.
    pub scale: Option<f32>,
}

impl Config {
    /// Causal, without a window.
    pub fn new(qkv: Qkv) -> Self {
        Self { qkv, causal: true, lengths: false, window: None, scale: None }
    }

    /// The factor of the scores: `scale` or its default.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(self.qkv.default_scale())
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.qkv.validate(NAME)?;
        if self.window == Some(0) {
            return Err(Error::setting(NAME, "window", "1 or more", "0"));
        }
        if self.window.is_some() && !self.causal {
            return Err(Error::rule(NAME, "window", " needs the causal form"));
        }
        qkv::check_scale(NAME, self.effective_scale())
    }

    fn mask(&self) -> Mask {
        Mask { causal: self.causal, window: self.window }
    }

    fn cost(&self) -> Cost {
        let cost = attention::essential(&self.qkv, self.mask());
        let lengths = if self.lengths { self.qkv.batch as f64 * 4.0 } else { 0.0 };
        Cost { bytes_read: cost.bytes_read + lengths, ..cost }
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        slots.extend(self.lengths.then(|| attention::lengths_slot(&self.qkv)));
        slots
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
        cpu: crate::operator::CpuBackend { run: cpu::run, variant: |_| crate::cores::attention::cpu::variant() },
    };
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
    }
}
