//! Exact softmax attention. It is the baseline of the benches, and serves the attention layers of hybrid models.
//!
//! For every batch entry and query head `h`, which reads key head `h / (H / G)`:
//!
//! ```text
//! o_i = sum_j softmax_j(scale * q_i . k_j) v_j
//! ```
//!
//! The sum runs over the keys j that query i sees: all keys; if causal, those with `j <= i + M - N` (the last query is
//! aligned with the last key, as with a cache), or with `j <= i` ([`Align`]); with a window W, the last W of these. A query
//! that sees no key gives zeros. Source: Vaswani et al., "Attention is all you need" (arXiv 1706.03762), equation 1. It is
//! computed tile by tile with a running maximum and sum as in Milakov and Gimelshein (arXiv 1805.02867) and Dao et al. (arXiv
//! 2205.14135), so that no N x M matrix is ever stored.
//!
//! What models add to it, each off unless it is set:
//!
//! | setting | tensor | effect |
//! |---|---|---|
//! | [`Config::softcap`] | | a score s becomes `C tanh(s / C)` (Gemma 2, arXiv 2408.00118, section 2.2) |
//! | [`Config::bias`] | `bias [1\|B, 1\|H, N, M]` | is added to the scores, after the cap; minus infinity hides a pair |
//! | [`Config::mask`] | `mask [1\|B, 1\|H, N, M]` | 0 hides a pair; with causal, both hold |
//! | [`Config::sink`] | `sink [H]` | `exp(sink)` joins the sum of every row, without a value (gpt-oss, arXiv 2508.10925) |
//! | [`Config::lengths`] | `lengths [B]` | keys from `lengths[b]` on are not seen |
//! | [`Config::sequences`] | `cu_seqlens [S+1]` | packed sequences: a query sees no key across a border |
//! | [`Config::lse`] | `lse [B, H, N]`, written | logarithm of the sum of exponentials and of the sink; minus infinity of an empty sum |
//!
//! Outputs o_1 and o_2 over two parts of the keys are merged as `o_1 e^(lse_1 - lse) + o_2 e^(lse_2 - lse)`, where `lse` is
//! the logarithm of `e^lse_1 + e^lse_2`.
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

use crate::cores::attention::{self, Extras, Mask};
use crate::error::Error;
use crate::gpu::program::{Cost, check_memory};
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, qkv, tensors};
use crate::tensor::{Slot, TensorMap};

pub use crate::operator::pairs::{Align, Pairs};

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "softmax";

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
    /// W: maximum number of keys per query, the last of which is its own key; only if causal.
    pub window: Option<usize>,
    /// Factor of the scores; `None` means `1 / sqrt(D)`.
    pub scale: Option<f32>,
    /// C: the scores are held between -C and C; above 0.
    pub softcap: Option<f32>,
    /// The axes of a tensor `bias` that is added to the scores, of the storage type of q.
    pub bias: Option<Pairs>,
    /// The axes of a tensor `mask` that hides pairs.
    pub mask: Option<Pairs>,
    /// Whether a tensor `sink` `[H]` joins the sums.
    pub sink: bool,
    /// Whether `lse` is written.
    pub lse: bool,
}

impl Config {
    /// Causal, without a window.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            causal: true,
            align: Align::End,
            lengths: false,
            sequences: None,
            window: None,
            scale: None,
            softcap: None,
            bias: None,
            mask: None,
            sink: false,
            lse: false,
        }
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
        qkv::check_scale(NAME, self.effective_scale())?;
        self.extras().check(NAME, &self.qkv, self.rule())?;
        check_memory(NAME, &self.slots())
    }

    /// The rule by which a query sees keys.
    fn rule(&self) -> Mask {
        Mask { causal: self.causal, window: self.window, align: self.align }
    }

    fn extras(&self) -> Extras {
        let Self { lengths, sequences, bias, mask, sink, softcap, lse, .. } = *self;
        Extras { lengths, sequences, bias, mask, sink, softcap, lse }
    }

    fn cost(&self) -> Cost {
        attention::essential(&self.qkv, self.rule()) + self.extras().essential(&self.qkv, self.rule())
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        self.qkv.slots().into_iter().chain(self.extras().slots(&self.qkv)).collect()
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
    /// Tensors on the GPU, with the shapes of the module's formula. Each optional one is given if and only if its setting is
    /// on.
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
        /// `[B]`, u32; with [`Config::lengths`].
        lengths,
        /// `[S+1]`, u32; with [`Config::sequences`].
        cu_seqlens,
        /// `[1|B, 1|H, N, M]`, of the storage type of q; with [`Config::bias`].
        bias,
        /// `[1|B, 1|H, N, ceil(M / 32)]`, u32; with [`Config::mask`]. Key j of a row is bit `j % 32` of word `j / 32`, as
        /// [`HostTensor::to_bits`](crate::tensor::HostTensor::to_bits) makes them.
        mask,
        /// `[H]`, f32; with [`Config::sink`].
        sink,
        /// `[B, H, N]`, f32, written; with [`Config::lse`].
        lse,
    }
}
