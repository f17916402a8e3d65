//! Multi-token attention: softmax attention that mixes the weights of neighbouring queries, keys and heads before and
//! after the softmax.
//!
//! For every batch entry and query head `h`, which reads key head `h / (H / G)`. Query i sees all keys or, if causal,
//! the keys j with `j <= i + M - N` (the last query is aligned with the last key, as with a cache), or `j <= i` if the first
//! query is aligned with the first key ([`Align`]). A stage whose tensor is absent is skipped.
//!
//! ```text
//! S_h[i,j]  = scale q_i . k_j where i sees j, else 0
//! S_h[i,j]  = sum_{a,b} kq_pre[h, cq-1-a, half+b] S_h[i-a, j+b]     a from 0 to cq-1, b from -half to half = (ck-1)/2
//! S_o       = sum_c head_pre[o,c] S_c
//! A_h[i,:]  = softmax of S_h[i,:] over the keys that i sees, 0 at others
//! A_h[i,j]  = sum_{a,b} kq_post[h, cq-1-a, half+b] A_h[i-a, j+b]    where i sees j, else 0
//! A_o       = sum_c head_post[group, c, o] A_c                      over the heads c of its group
//! o_i       = sum_j A_h[i,j] v_j
//! o_i       = (1 - lambda) norm o_i / sqrt(mean(o_i^2) + 1e-5)      lambda = 0.8 - 0.6 e^(-0.3 depth); 0 without depth
//! o_i       = o_i sigmoid(gate_weight o_i + gate_bias)
//! ```
//!
//! Rows before the first and keys outside the sequence count as zeros. Rows are not normalised again after the softmax,
//! so their sums need not be 1. A query that sees no key gives zeros before the norm. Source: "Multi-Token Attention"
//! (arXiv 2504.00927), equations 4 to 8, and its code, facebookresearch/RAM `projects/mta`, from which the order of the
//! stages is taken. Without convolutions it is talking-heads attention (arXiv 2003.02436); without any stage it is
//! softmax attention.
//!
//! To continue a sequence, earlier keys and values are prepended to k and v, which then contain M - N earlier tokens.
//! `q_tail` holds the last `(cq_pre-1) + (cq_post-1)` queries before the first, because the convolutions reach back to
//! their rows.
//!
//! Cost: `2 (D + E)` flops per pair of a query and a key that it sees, `2 cq ck` for each convolution, `2 H` and `2 c`
//! for mixing heads. Where tiles overlap, this work is done more than once. Scores are never written to memory.
//! Workspace: with a stage after the softmax 8 bytes per head and row, otherwise none.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod mixed;
mod reference;
#[cfg(feature = "catalog")]
mod row;
mod tiles;

use crate::cores::attention::Mask;
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::check_memory;
use crate::operator::pairs::{self, Align};
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, qkv, tensors, weights};
use crate::tensor::{Access, DType, Shape, Slot};

#[cfg(feature = "catalog")]
pub use row::OP;

const NAME: &str = "mta";

/// Maximum number of query rows cq of a key-query kernel.
pub const MAX_QUERIES: usize = 16;

/// Maximum number of keys ck of a key-query kernel.
pub const MAX_KEYS: usize = 31;

/// Maximum number of value dimensions of a gate per channel.
pub const MAX_GATE: usize = 2048;

/// Added to the mean square in the norm.
const NORM_EPS: f32 = 1e-5;

/// The size of a key-query kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Taps {
    /// cq: the query's own row and the rows before it, 1 to [`MAX_QUERIES`].
    pub queries: usize,
    /// ck: keys centred on the cell's own key; odd, 1 to [`MAX_KEYS`].
    pub keys: usize,
}

impl Taps {
    /// A kernel of cq query rows by ck keys.
    pub const fn new(queries: usize, keys: usize) -> Self {
        Self { queries, keys }
    }

    /// Number of rows before a query's own that the kernel reaches, and number of keys on either side; zeros for an
    /// absent kernel.
    pub(crate) fn halo(taps: Option<Self>) -> (usize, usize) {
        taps.map_or((0, 0), |taps| (taps.queries.saturating_sub(1), taps.keys / 2))
    }
}

/// Whether a gate has one number per head and query or one per channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gates {
    /// One number per head and query: weight `[1, E]`.
    Scalar,
    /// One number per channel: weight `[E, E]`.
    PerChannel,
}

/// The sigmoid gate that multiplies the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gate {
    /// Whether it has one number per head and query or one per channel.
    pub gates: Gates,
    /// Whether there is a bias.
    pub bias: bool,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage type and axis order.
    pub qkv: Qkv,
    /// Whether query i sees only keys up to its own.
    pub causal: bool,
    /// Which key is a causal query's own if M and N differ.
    pub align: Align,
    /// Factor of the scores; `None` means `1 / sqrt(D)`.
    pub scale: Option<f32>,
    /// The key-query convolution before the softmax: `kq_pre [H, cq, ck]`.
    pub kq_pre: Option<Taps>,
    /// The key-query convolution after the softmax: `kq_post [H, cq, ck]`.
    pub kq_post: Option<Taps>,
    /// Whether the scores of all heads are mixed before the softmax: `head_pre [H, H]`.
    pub head_pre: bool,
    /// c: number of heads per group whose weights are mixed after the softmax, `head_post [H/c, c, c]`.
    pub head_post: Option<usize>,
    /// Whether each head's output is normalised: `norm [E]`.
    pub norm: bool,
    /// The index of the layer, from 0, for the factor `1 - lambda` of the norm.
    pub depth: Option<usize>,
    /// The gate: `gate_weight [1 or E, E]` and `gate_bias [1 or E]`.
    pub gate: Option<Gate>,
    /// Whether `q_tail` is an input and an output. The first M - N keys are then those of earlier runs.
    pub carry: bool,
}

impl Config {
    /// Causal, without any stage: softmax attention.
    pub fn new(qkv: Qkv) -> Self {
        Self {
            qkv,
            causal: true,
            align: Align::End,
            scale: None,
            kq_pre: None,
            kq_post: None,
            head_pre: false,
            head_post: None,
            norm: false,
            depth: None,
            gate: None,
            carry: false,
        }
    }

    /// The factor of the scores: `scale` or its default.
    pub fn effective_scale(&self) -> f32 {
        self.scale.unwrap_or(self.qkv.default_scale())
    }

    /// The factor `1 - lambda` for the depth; 1 without a depth.
    pub fn depth_factor(&self) -> f64 {
        self.depth.map_or(1.0, |layer| 0.2 + 0.6 * (-0.3 * layer as f64).exp())
    }

    /// T: number of queries that a run takes over from earlier runs.
    pub fn tail(&self) -> usize {
        Taps::halo(self.kq_pre).0 + Taps::halo(self.kq_post).0
    }

    /// Whether there is a stage after the softmax.
    pub(crate) fn post(&self) -> bool {
        self.kq_post.is_some() || self.head_post.is_some()
    }

    /// Whether there is no stage before or after the softmax.
    pub(crate) fn plain(&self) -> bool {
        !(self.post() || self.kq_pre.is_some() || self.head_pre)
    }

    /// Number of rows before the first query that are known.
    pub(crate) fn rows_before(&self) -> usize {
        if self.carry { self.tail() } else { 0 }
    }

    /// Number of keys that a row sees, from the first key on. A row below 0 is a row of `q_tail`, or does not exist.
    pub(crate) fn keys_seen(&self, row: isize) -> usize {
        let s = &self.qkv;
        if row < -(self.rows_before() as isize) {
            return 0;
        }
        if !self.causal {
            return s.keys;
        }
        (row + 1 + self.shift()).clamp(0, s.keys as isize) as usize
    }

    /// Position of the first query among the keys.
    pub(crate) fn shift(&self) -> isize {
        self.align.shift(self.qkv.queries, self.qkv.keys)
    }

    pub(crate) fn mask(&self) -> Mask {
        Mask { causal: self.causal, window: None, align: self.align }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { heads, queries, keys, dim_v, .. } = self.qkv;
        self.qkv.validate(NAME)?;
        qkv::check_scale(NAME, self.effective_scale())?;
        for (tensor, taps) in [("kq_pre", self.kq_pre), ("kq_post", self.kq_post)] {
            let Some(Taps { queries, keys }) = taps else { continue };
            if !(1..=MAX_QUERIES).contains(&queries) {
                let expected = format!("1 to {MAX_QUERIES} query rows cq");
                return Err(Error::tensor(NAME, tensor, expected, queries.to_string()));
            }
            if keys > MAX_KEYS || keys.is_multiple_of(2) {
                let expected = format!("an odd number ck of keys up to {MAX_KEYS}");
                return Err(Error::tensor(NAME, tensor, expected, keys.to_string()));
            }
        }
        if let Some(group) = self.head_post.filter(|group| *group == 0 || !heads.is_multiple_of(*group)) {
            let expected = format!("groups of heads that divide H = {heads}");
            return Err(Error::tensor(NAME, "head_post", expected, format!("groups of {group}")));
        }
        if self.depth.is_some() && !self.norm {
            let expected = format!("[{dim_v}], which --depth scales");
            return Err(Error::Missing { op: NAME, tensor: "norm".into(), expected, given: "a depth".into() });
        }
        if self.gate.is_some_and(|gate| gate.gates == Gates::PerChannel) && dim_v > MAX_GATE {
            let expected = format!("at most {MAX_GATE} channels of a gate each");
            return Err(Error::tensor(NAME, "gate_weight", expected, dim_v.to_string()));
        }
        if self.carry && !self.causal {
            return Err(Error::setting(NAME, "carry", "the causal form", "the non-causal form"));
        }
        if self.align == Align::Start && !self.causal {
            return Err(Error::rule(NAME, "align", pairs::NOT_CAUSAL));
        }
        if self.align == Align::Start && self.carry {
            return Err(Error::rule(NAME, "align", pairs::WITH_CACHE));
        }
        if self.carry && keys < queries {
            let expected = format!("M of N = {queries} or more with a carried state");
            return Err(Error::tensor(NAME, "k", expected, keys.to_string()));
        }
        check_memory(NAME, &self.slots())
    }

    /// The packed weights in f32: kq_pre, kq_post, head_pre, head_post, norm, gate_weight and gate_bias, in this order
    /// and as far as the configuration has them; `None` if it has none.
    pub fn weights_slot(&self) -> Option<Slot> {
        let Qkv { heads, dim_v, .. } = self.qkv;
        let mut parts: Vec<(&'static str, Shape)> = Vec::new();
        let mut part = |name: &'static str, shape: Option<Shape>| parts.extend(shape.map(|shape| (name, shape)));
        let kernel = |taps: Taps| Shape::from([heads, taps.queries, taps.keys]);
        part("kq_pre", self.kq_pre.map(kernel));
        part("kq_post", self.kq_post.map(kernel));
        part("head_pre", self.head_pre.then(|| [heads, heads].into()));
        part("head_post", self.head_post.map(|c| [heads / c.max(1), c, c].into()));
        part("norm", self.norm.then(|| [dim_v].into()));
        let gates = self.gate.map(|gate| if gate.gates == Gates::Scalar { 1 } else { dim_v });
        part("gate_weight", gates.map(|gates| [gates, dim_v].into()));
        part("gate_bias", gates.filter(|_| self.gate.is_some_and(|gate| gate.bias)).map(|gates| [gates].into()));
        (!parts.is_empty()).then(|| pack::slot("weights", Access::Read, DType::F32, &parts))
    }

    /// The state, `q_tail [B, H, T, D]`; `None` if it is not carried or no convolution reaches back.
    pub fn tail_slot(&self) -> Option<Slot> {
        let Qkv { batch, heads, dim_k, .. } = self.qkv;
        let shape = [batch, heads, self.tail(), dim_k];
        (self.carry && self.tail() > 0).then(|| Slot::plain("q_tail", Access::Update, DType::F32, shape))
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let mut slots = self.qkv.slots();
        slots.extend(self.weights_slot());
        slots.extend(self.tail_slot());
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
        cpu: crate::operator::CpuBackend::new(cpu::run, cpu::variant),
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
        /// All weights in one buffer; required if [`Config::weights_slot`] is not `None`, otherwise refused.
        weights,
        /// `[B, H, T, D]`, f32; required if [`Config::tail_slot`] is not `None`, otherwise refused.
        q_tail,
    }
}

weights! { "weights":
    /// `[H, cq, ck]`, before the softmax.
    kq_pre,
    /// `[H, cq, ck]`, after the softmax.
    kq_post,
    /// `[H, H]`: out, in.
    head_pre,
    /// `[H / c, c, c]`: group, out, in.
    head_post,
    /// `[E]`.
    norm,
    /// `[1, E]` or `[E, E]`.
    gate_weight,
    /// `[1]` or `[E]`.
    gate_bias,
}
