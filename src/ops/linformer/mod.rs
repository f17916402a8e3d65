//! Linformer: keys and values are shortened to a fixed number of rows, followed by exact softmax attention over these
//! rows.
//!
//! For every batch entry and query head h, which reads key head g = h / (H / G):
//!
//! ```text
//! k' = e k     [K, D]
//! v' = f v     [K, E]
//! o_i = sum_r softmax_r(scale * q_i . k'_r) v'_r
//! ```
//!
//! The projections e and f are `[K, M]`, either one for all heads or one for each query head. In files they may be longer: then
//! their first M columns are used, as in a layer that was trained for longer inputs. Without f, e is used for
//! both keys and values. Instead of a projection, row r may pool the tokens from `floor(r M / K)` to
//! `ceil((r + 1) M / K) - 1` by their mean or by their maximum, which skips NaN.
//!
//! q, k, v and o may be strided tensors ([`Tensor::strided`](crate::tensor::Tensor::strided)).
//!
//! Every row mixes all tokens, so there is no causal form. Source: Wang et al., "Linformer: Self-attention with linear
//! complexity" (arXiv 2006.04768), equation 7, and section 4 for sharing and pooling. The entries of a random
//! projection are drawn from N(0, 1/K), as in the paper's theorem.
//!
//! Cost: `2 K M (D + E)` flops per projected head and `2 K N (D + E)` flops per query head. Workspace: the projected
//! keys and values in f32, `K (D + E)` floats per projected head, and partial results for each split of the tokens, for
//! keys or values at a time. Each of the three must fit one binding. Nothing of size N x K is stored. The projected
//! heads are the key heads, or all query heads if one of the projections differs between query heads.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod reference;
#[cfg(feature = "catalog")]
mod row;

use crate::error::Error;
use crate::gpu::program::check_memory;
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, qkv, tensors};
use crate::tensor::{Access, DType, Slot};

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "linformer";

/// The largest rank.
pub const MAX_RANK: usize = 65535;

/// Default rank, if neither a tensor nor a flag gives it.
pub const DEFAULT_RANK: usize = 256;

/// The heads that use a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// All heads share it: `[1, K, M]`.
    AllHeads,
    /// Each query head has its own: `[H, K, M]`.
    PerHead,
}

/// How a row pools its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pool {
    /// The mean of the tokens.
    Mean,
    /// The maximum of each dimension.
    Max,
}

/// How keys and values are shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Projection {
    /// By projection matrices.
    Matrices {
        /// The projection of the keys.
        e: Sharing,
        /// The projection of the values; `None` if `e` is used for both.
        f: Option<Sharing>,
    },
    /// By pooling.
    Pool(Pool),
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage type and axis order. Any D and E.
    pub qkv: Qkv,
    /// K: the number of rows that keys and values are shortened to, at most M and [`MAX_RANK`].
    pub rank: usize,
    /// How keys and values are shortened.
    pub projection: Projection,
    /// Factor of the scores; `None` means `1 / sqrt(D)`.
    pub scale: Option<f32>,
}

impl Config {
    /// One projection for all heads, for both keys and values.
    pub fn new(qkv: Qkv, rank: usize) -> Self {
        Self { qkv, rank, projection: Projection::Matrices { e: Sharing::AllHeads, f: None }, scale: None }
    }

    /// The factor of the scores: `scale` or its default.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(self.qkv.default_scale())
    }

    /// Number of heads of the projected keys and values: the key heads, or the query heads if a projection differs
    /// between them.
    pub fn projected_heads(&self) -> usize {
        match self.projection {
            Projection::Matrices { e, f } if e == Sharing::PerHead || f == Some(Sharing::PerHead) => self.qkv.heads,
            _ => self.qkv.kv_heads,
        }
    }

    /// Shapes of the attention over the projected keys and values.
    fn short(&self) -> Qkv {
        self.qkv.kv_heads(self.projected_heads()).keys(self.rank)
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.qkv.validate(NAME)?;
        let most = self.qkv.keys.min(MAX_RANK);
        if self.rank == 0 || self.rank > most {
            let expected = if most < MAX_RANK { format!("1 to M = {most}") } else { format!("1 to {most}") };
            let default = if self.rank == DEFAULT_RANK { " (the default; see --rank)" } else { "" };
            return Err(Error::setting(NAME, "rank", expected, format!("{}{default}", self.rank)));
        }
        qkv::check_scale(NAME, self.effective_scale())?;
        check_memory(NAME, &self.slots())
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        if let Projection::Matrices { e, f } = self.projection {
            let mut push = |name, sharing| {
                let heads = if sharing == Sharing::PerHead { self.qkv.heads } else { 1 };
                slots.push(Slot::plain(name, Access::Read, DType::F32, [heads, self.rank, self.qkv.keys]));
            };
            push("e", e);
            f.into_iter().for_each(|f| push("f", f));
        }
        slots
    }
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: layout::essential,
        program: layout::program,
        reference: [reference::outputs::<f32>, reference::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(cpu::run, |_| cpu::variant()),
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
        /// `[1, K, M]` or `[H, K, M]`, f32; required unless the configuration pools.
        e,
        /// `[1, K, M]` or `[H, K, M]`, f32, for the values; required if the configuration has a separate projection for
        /// them.
        f,
    }
}
