//! SLAY: linear attention with features of the spherical Yat kernel.
//!
//! For unit vectors u = x / max(|x|, 1e-12), the kernel `(u_q . u_k)^2 / (C - 2 u_q . u_k)` with C = 2 + epsilon is an
//! integral over s of `e^{-C s} (u_q . u_k)^2 e^{2 s u_q . u_k}`. Gauss-Laguerre quadrature with R nodes, s_r = t_r / C
//! and w_r = alpha_r / C, approximates it by a sum. A polynomial map A for the square and positive random features E
//! for the exponential turn the kernel into a product of features:
//!
//! ```text
//! Psi_{r,p,f}(u) = A_p(u) E_{r,f}(u)                                       m = R P F features, in the order (r, p, f)
//! E_{r,f}(u)     = sqrt(w_r / F) exp(sqrt(2 s_r) omega_{r,f} . u - s_r)
//! A_p(u)         = (a_p . u)^2 / sqrt(P)                                   anchor: unit vectors a_p, the default
//! A_{ij}(u)      = u_i u_j (i = j), sqrt(2) u_i u_j (i < j)                exact: D (D + 1) / 2 of them, j fastest
//! further maps: see [`Poly`]
//!
//! S_t = S_{t-1} + Psi(k_t) v_t^T      [m, E]
//! z_t = z_{t-1} + Psi(k_t)            [m]
//! o_t = S_t^T Psi(q_t) / (z_t . Psi(q_t) + norm_eps)
//! ```
//!
//! There is one division, after the sum over nodes. All heads share the anchors; each key head has its own omega.
//! Source: arXiv 2602.04915, equations 1 to 5 and section 2.4; code azettaai/slay. The products of anchor features have
//! the expectation `(1 + 2 x^2) / (D (D + 2))` instead of `x^2`. The map `exact` reproduces the square.
//!
//! q, k, v and o may be strided tensors ([`Tensor::strided`](crate::tensor::Tensor::strided)).

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod poly;
#[doc(hidden)]
pub mod quadrature;
mod reference;
#[cfg(feature = "catalog")]
mod row;
mod summary;

use crate::error::Error;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, pack};
use crate::operator::mode::Mode;
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, LogDecayFn, StateBasis, tensors, weights};
use crate::tensor::{Access, DType, Slot};

use poly::MOST_WHITENED;

pub use poly::Poly;

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "slay";

/// The largest number of nodes.
pub const MAX_NODES: usize = 32;

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage type and axis order. M equals N if causal. v may have more heads than k: see
    /// [`Qkv::shared`].
    pub qkv: Qkv,
    /// R: number of nodes of the quadrature, at most [`MAX_NODES`].
    pub nodes: usize,
    /// F: number of random features per node.
    pub features: usize,
    /// P: number of features of the map for the square, if it can be chosen: rows of `anchors`, `signs` or `sketches`.
    pub anchors: usize,
    /// The map for the square.
    pub poly: Poly,
    /// The epsilon of the kernel: C = 2 + epsilon.
    pub epsilon: f32,
    /// Added to the denominator.
    pub norm_eps: f32,
    /// How it runs along the sequence.
    pub mode: Mode,
}

impl Config {
    /// Causal, with two nodes, eight anchors and sixteen features, without a carried state.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            nodes: 2,
            features: 16,
            anchors: 8,
            poly: Poly::Anchor,
            epsilon: 1e-3,
            norm_eps: 1e-6,
            mode: Mode::new(),
        }
    }

    /// Number of features of the map for the square.
    pub fn poly_width(&self) -> usize {
        match self.poly {
            Poly::Exact => self.qkv.dim_k * (self.qkv.dim_k + 1) / 2,
            Poly::Laplace | Poly::Hadamard => 1,
            Poly::Anchor | Poly::Nystrom | Poly::Maclaurin | Poly::TensorSketch => self.anchors,
        }
    }

    /// m: the number of features, which is the number of rows of the state.
    pub fn width(&self) -> usize {
        self.nodes.saturating_mul(self.poly_width()).saturating_mul(self.features)
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { batch, queries, keys, .. } = self.qkv;
        self.qkv.validate_shared(NAME)?;
        let most_anchors = if self.poly == Poly::Nystrom { MOST_WHITENED } else { 1 << 20 };
        for (setting, value, most) in [
            ("nodes", self.nodes, MAX_NODES),
            ("features", self.features, 1 << 20),
            ("anchors", self.anchors, most_anchors),
        ] {
            if value == 0 || value > most {
                return Err(Error::setting(NAME, setting, format!("1 to {most}"), value.to_string()));
            }
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::setting(NAME, "epsilon", "a finite number over 0", self.epsilon.to_string()));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::setting(NAME, "norm_eps", "a finite number of 0 or more", self.norm_eps.to_string()));
        }
        self.mode.check_all(NAME, "q", batch, [queries, keys])?;
        check_memory(NAME, &self.slots())
    }

    /// The packed weights: the tensor of the map for the square (`anchors [P, D]`, `signs [2, P, D]`,
    /// `sketches [2, P, D]` or none), then `omega [R, G, F, D]`.
    pub fn weights_slot(&self) -> Slot {
        let (d, g) = (self.qkv.dim_k, self.qkv.key_heads());
        let mut parts = Vec::new();
        if let Some(name) = self.poly.weight() {
            let two = self.poly.weight_rows(1) == 2;
            parts.push((name, if two { [2, self.anchors, d].into() } else { [self.anchors, d].into() }));
        }
        parts.push(("omega", [self.nodes, g, self.features, d].into()));
        pack::slot("weights", Access::Read, DType::F32, &parts)
    }

    /// The packed state: `state [B, G, m, E]`, or `[B, G, E, m]` in the state layout `ed`, and `norm [B, G, m]`. B is the
    /// number of packed sequences if there are such, G is V if v has more heads than k.
    pub fn state_slot(&self) -> Slot {
        let (b, g, m) = (self.mode.states(self.qkv.batch), self.qkv.kv_heads, self.width());
        let [rows, columns] = self.mode.state_layout.order([m, self.qkv.dim_v]);
        pack::slot(
            "state",
            Access::Update,
            DType::F32,
            &[("state", [b, g, rows, columns].into()), ("norm", [b, g, m].into())],
        )
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        slots.push(self.weights_slot());
        slots.extend(self.mode.borders_slot());
        if self.mode.carry {
            slots.push(self.state_slot());
        }
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        layout::program(self, caps)
    }
}

impl Configured for Config {
    type Tensors<'a> = Tensors<'a>;

    const ALGORITHM: Algorithm<Self> = Algorithm {
        name: NAME,
        validate: Self::validate,
        slots: Self::slots,
        cost: layout::essential,
        program: Self::program,
        reference: [reference::outputs::<f32>, reference::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(cpu::run, cpu::variant),
    };

    fn mode(&self) -> Mode {
        self.mode
    }

    fn plain(&self, length: usize, dtype: DType) -> Self {
        let qkv = self.qkv.queries(length).keys(length).dtype(dtype);
        Self { qkv, mode: self.mode.plain(), ..self.clone() }
    }

    fn state_elements(&self) -> u64 {
        self.state_slot().checked_count().unwrap_or(u64::MAX)
    }

    fn log_decay(&self) -> Result<LogDecayFn<Self>, Error> {
        Ok(summary::log_decay)
    }

    fn state_basis(&self) -> StateBasis {
        let mut settings = vec![("poly", self.poly.name().to_owned()), ("epsilon", self.epsilon.to_string())];
        settings.extend(self.mode.state_basis());
        StateBasis { settings, weights: &["anchors", "signs", "sketches", "omega"] }
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
        /// The packed weights in one buffer: see [`Config::weights_slot`].
        weights,
    }
    optional {
        /// Borders of packed sequences, `[S+1]` in u32; required if `mode.sequences` is set, otherwise refused.
        cu_seqlens,
        /// The packed state in one buffer; required if `mode.carry`, otherwise refused.
        state,
    }
}

weights! { "weights":
    /// `[P, D]`.
    anchors,
    /// `[2, P, D]`.
    signs,
    /// `[2, P, D]`.
    sketches,
    /// `[R, G, F, D]`.
    omega,
}
