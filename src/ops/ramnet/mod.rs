//! RAM-Net: a large memory of slots, which each token addresses sparsely for a write and for a read.
//!
//! Every batch entry and head has S = P^U slots, each with a content `[E]` and a mass. For every token t in order:
//!
//! ```text
//! addr_k = the K slots of the largest P(i) = prod_u softmax(k_t[u] / tau)[digit u of i],  digit 0 least significant
//! w_k    = P(addr_k), not renormalised; addr_q and r likewise from q_t
//! addr   = (addr - t) mod S                                   on heads with CAPE
//!
//! alpha  = (1 - w) / (1 - w + e^gamma w)    gsu               mass starts at 1 / S
//!        = (1 - w)^gamma                    pdma              mass starts at 0
//! m      = alpha m + w                                        for each of the K slots of addr_k
//! eta    = w / (m + mass_eps)
//! S      = S + eta (v_t - S)
//! o_t    = sum_j r_j S[addr_q j]                              after the write of the same token
//! ```
//!
//! The K slots are found by a level-wise beam over f32 prefix sums of the raw logits, digit 0 first. Of equal sums, the
//! smaller address wins. Every backend uses f32 sums for this, and so does the definition at both precisions, so that
//! all of them address the same slots. A weight that underflows f32 causes no write and no read. A gamma of plus
//! infinity overwrites, one of minus infinity forgets nothing. Under pdma the state holds the mean S, not the sums.
//! Sources: arXiv 2602.11958 (v2 gsu, v1 pdma) and its companion site.
//!
//! A `codebook` replaces each v_t by its nearest code ([`quantize`]) before the write, so that the number of the code, which is
//! below C, stands for the value.
//!
//! Cost: per token and head, up to `2 U K P` additions to compute addresses, `5 K E` flops and 2 K rows of the memory,
//! whatever S is.

#[cfg(feature = "catalog")]
mod cases;
#[cfg(feature = "cpu")]
mod cpu;
mod layout;
mod pieces;
mod reference;
#[cfg(feature = "catalog")]
mod row;
mod table;

use crate::error::Error;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, pack};
use crate::operator::mode::Mode;
use crate::operator::qkv::Qkv;
use crate::operator::{Algorithm, Configured, StateBasis, tensors};
use crate::ops::primitives::{Tokens, quantize};
use crate::tensor::{Access, DType, Layout, Part, Shape, Slot};

#[cfg(feature = "catalog")]
pub use row::OP;

#[doc(hidden)]
pub use layout::Form;

const NAME: &str = "ramnet";

/// Maximum number of slots per head: P^U.
pub const MAX_SLOTS: usize = 65536;

/// Maximum number of slots that a token writes, and of slots that it reads.
pub const MAX_TOPK: usize = 64;

/// Maximum number of heads if only some of them have CAPE.
pub const MAX_CAPE_HEADS: usize = 1024;

/// Default number of choices P per digit.
pub const DEFAULT_CHOICES: usize = 4;

/// Default number of slots K per access.
pub const DEFAULT_TOPK: usize = 8;

/// The share of its mass that a slot keeps at a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Gated sparse update (second version of the paper): `(1 - w) / (1 - w + e^gamma w)`.
    Gsu,
    /// Power decay moving average (first version of the paper): `(1 - w)^gamma`.
    Pdma,
}

/// The heads that have CAPE, the cyclic positional embedding of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cape {
    /// No head.
    None,
    /// All heads.
    All,
    /// Only these heads.
    Heads(Vec<usize>),
}

impl Cape {
    /// Whether this head has CAPE.
    pub fn has(&self, head: usize) -> bool {
        match self {
            Cape::None => false,
            Cape::All => true,
            Cape::Heads(heads) => heads.contains(&head),
        }
    }
}

/// Vector quantisation of the values: each is replaced by its nearest code before it is written
/// ([`quantize`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codebook {
    /// C: codes.
    pub codes: usize,
    /// Whether every head has its own codebook.
    pub per_head: bool,
    /// Whether the numbers of the codes, `code`, are an output.
    pub output: bool,
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage type and axis order: D = U P, M = N, G = H.
    pub qkv: Qkv,
    /// P: choices per digit.
    pub choices: usize,
    /// K: slots that a token writes, and slots that it reads.
    pub topk: usize,
    /// The share of its mass that a slot keeps at a write.
    pub rule: Rule,
    /// Heads with CAPE, whose addresses shift by one slot per token.
    pub cape: Cape,
    /// Temperature of the addresses.
    pub tau: f32,
    /// Added to the mass; `None` means 1e-12, or 1e-6 under pdma.
    pub mass_eps: Option<f32>,
    /// Quantisation of the values, if there is a codebook.
    pub codebook: Option<Codebook>,
    /// How it runs along the sequence.
    pub mode: Mode,
}

impl Config {
    /// f32 in layout bhnd, with `digits` digits of four choices, eight slots per access and rule gsu; without CAPE and
    /// a carried state.
    pub fn new(batch: usize, heads: usize, len: usize, digits: usize, dim_v: usize) -> Self {
        Self {
            qkv: Qkv::new().batch(batch).heads(heads).len(len).dim(digits * DEFAULT_CHOICES).dim_v(dim_v),
            choices: DEFAULT_CHOICES,
            topk: DEFAULT_TOPK,
            rule: Rule::Gsu,
            cape: Cape::None,
            tau: 1.0,
            mass_eps: None,
            codebook: None,
            mode: Mode::new(),
        }
    }

    /// U: digits of an address.
    pub fn digits(&self) -> usize {
        self.qkv.dim_k / self.choices.max(1)
    }

    /// P^U: slots per head; saturates.
    pub fn slots_of_a_head(&self) -> usize {
        self.choices.saturating_pow(self.digits().try_into().unwrap_or(u32::MAX))
    }

    /// The number added to the mass: `mass_eps` or its default.
    pub fn effective_mass_eps(&self) -> f32 {
        let default = if self.rule == Rule::Gsu { 1e-12 } else { 1e-6 };
        self.mass_eps.unwrap_or(default)
    }

    /// Initial mass of every slot.
    pub fn initial_mass(&self) -> f32 {
        if self.rule == Rule::Gsu { 1.0 / self.slots_of_a_head() as f32 } else { 0.0 }
    }

    /// Checks the settings on their own.
    ///
    /// # Errors
    /// One sentence that names the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { batch, heads, kv_heads, queries, keys, dim_k, .. } = self.qkv;
        self.qkv.validate(NAME)?;
        if kv_heads != heads {
            let expected = format!("H = {heads} heads as in q");
            return Err(Error::tensor(NAME, "k", expected, format!("{kv_heads} heads")));
        }
        if !(2..=MAX_SLOTS).contains(&self.choices) {
            return Err(Error::setting(NAME, "choices", format!("2 to {MAX_SLOTS}"), self.choices.to_string()));
        }
        if !dim_k.is_multiple_of(self.choices) {
            let expected = format!("a last axis U*P that is a multiple of P = {}", self.choices);
            return Err(Error::tensor(NAME, "q", expected, dim_k.to_string()));
        }
        let slots = self.slots_of_a_head();
        if slots > MAX_SLOTS {
            let found = format!("{}^{}", self.choices, self.digits());
            return Err(Error::setting(NAME, "choices", format!("at most {MAX_SLOTS} slots P^U"), found));
        }
        let most = slots.min(MAX_TOPK);
        if self.topk == 0 || self.topk > most {
            let expected = if slots < MAX_TOPK { format!("1 to the {slots} slots") } else { format!("1 to {most}") };
            return Err(Error::setting(NAME, "topk", expected, self.topk.to_string()));
        }
        if let Cape::Heads(list) = &self.cape {
            if let Some(head) = list.iter().find(|head| **head >= heads) {
                return Err(Error::setting(NAME, "cape", format!("heads from 0 to {}", heads - 1), head.to_string()));
            }
            if heads > MAX_CAPE_HEADS {
                let expected = format!("none or all with more than {MAX_CAPE_HEADS} heads");
                return Err(Error::setting(NAME, "cape", expected, "a list"));
            }
        }
        if !(self.tau.is_finite() && self.tau > 0.0) {
            return Err(Error::setting(NAME, "tau", "a finite number over 0", self.tau.to_string()));
        }
        let eps = self.effective_mass_eps();
        if !(eps.is_finite() && eps >= 0.0) {
            return Err(Error::setting(NAME, "mass_eps", "a finite number of 0 or more", eps.to_string()));
        }
        self.mode.check_all(NAME, "q", batch, [queries, keys])?;
        self.mode.check_one_form(NAME)?;
        if let Some(Codebook { codes, .. }) = self.codebook {
            let sizes = [("codes C", codes, quantize::MAX_CODES), ("dimensions E", self.qkv.dim_v, quantize::MAX_DIM)];
            for (what, size, most) in sizes {
                if size == 0 || size > most {
                    return Err(Error::tensor(NAME, "codebook", format!("1 to {most} {what}"), size.to_string()));
                }
            }
        }
        check_memory(NAME, &self.slots())
    }

    /// The quantisation of the values, if there is a codebook.
    fn quantize(&self) -> Option<quantize::Config> {
        let Qkv { batch, heads, keys, dim_v, dtype, layout, .. } = self.qkv;
        let Codebook { codes, per_head, .. } = self.codebook?;
        let tokens = Tokens::new(batch, heads, keys).layout(layout);
        Some(quantize::Config { per_head, dtype, ..quantize::Config::new(tokens, codes, dim_v) })
    }

    /// The packed state: `state [B, H, P^U, E]`, `mass [B, H, P^U]` and `position [1]` (i64 in files) with one copy per
    /// head. Of S packed sequences B is S, and position is `[S]`.
    pub fn state_slot(&self) -> Slot {
        let Qkv { batch, heads, dim_v, .. } = self.qkv;
        self.memory("state", [self.mode.states(batch), heads], dim_v)
    }

    /// The pack of the memories of `batch` times `heads` heads.
    fn memory(&self, name: &'static str, [batch, heads]: [usize; 2], dim_v: usize) -> Slot {
        let slots = self.slots_of_a_head();
        let content = Part::new("state", [batch, heads, slots, dim_v], DType::F32);
        let mass = Part { initial: self.initial_mass(), ..Part::new("mass", [batch, heads, slots], DType::F32) };
        let positions = self.mode.sequences.unwrap_or(1);
        let copies = batch.saturating_mul(heads) / positions.max(1);
        let position = Part { copies, ..Part::new("position", [positions], DType::I64) };
        pack::placed(name, Access::Update, DType::F32, vec![content, mass, position])
    }

    /// The program in this form instead of the one that suits the shape, for tests.
    ///
    /// # Errors
    /// One sentence that names the setting or tensor, or the limit of the device that this form exceeds.
    #[doc(hidden)]
    pub fn program_as(&self, caps: &Caps, form: Form) -> Result<Program, Error> {
        layout::program(self, caps, Some(form))
    }

    /// Every tensor with its exact shape and storage type.
    pub fn slots(&self) -> Vec<Slot> {
        let Qkv { batch, heads, queries, layout, dtype, .. } = self.qkv;
        let mut slots = self.qkv.slots();
        let gamma: Shape = match layout {
            Layout::Bhnd => [batch, heads, queries].into(),
            Layout::Bnhd => [batch, queries, heads].into(),
        };
        let tokens = if layout == Layout::Bhnd { 2 } else { 1 };
        slots.push(Slot::plain("gamma", Access::Read, dtype, gamma).along(tokens));
        slots.extend(self.mode.borders_slot());
        if self.mode.carry {
            slots.push(self.state_slot());
        }
        if let (Some(quantize), Some(codebook)) = (self.quantize(), self.codebook) {
            let [_, book, code, _] = quantize.named_slots();
            slots.push(book);
            slots.extend(codebook.output.then(|| code.along(tokens)));
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
        program: |config, caps| layout::program(config, caps, None),
        reference: [reference::outputs::<f32>, reference::outputs::<f64>],
        #[cfg(feature = "cpu")]
        cpu: crate::operator::CpuBackend::new(cpu::run, |_| cpu::variant()),
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

    fn state_basis(&self) -> StateBasis {
        let heads = 0..self.qkv.heads;
        let cape = match &self.cape {
            Cape::None => "none".to_owned(),
            Cape::All => "all".to_owned(),
            // A list that names heads in another order, or all of them, is the same.
            list => heads.filter(|head| list.has(*head)).map(|head| head.to_string()).collect::<Vec<_>>().join("/"),
        };
        let rule = if self.rule == Rule::Gsu { "gsu" } else { "pdma" };
        let settings = vec![("rule", rule.to_owned()), ("choices", self.choices.to_string()), ("cape", cape)];
        StateBasis { settings, weights: &[] }
    }
}

tensors! {
    /// Tensors on the GPU, with the shapes of the module's formula.
    required {
        /// `[B, H, N, U P]`.
        q,
        /// `[B, H, N, U P]`.
        k,
        /// `[B, H, N, E]`.
        v,
        /// `[B, H, N]`.
        gamma,
        /// `[B, H, N, E]`, written.
        o,
    }
    optional {
        /// Borders of packed sequences, `[S+1]` in u32; required if `mode.sequences` is set, otherwise refused.
        cu_seqlens,
        /// The packed state in one buffer, see [`Config::state_slot`]; required if `mode.carry`, otherwise refused.
        state,
        /// `[C, E]`, or `[H, C, E]` if [`Codebook::per_head`], f32; required if [`Config::codebook`], otherwise refused.
        codebook,
        /// `[B, H, N]`, i32, written: the code of each value; required if [`Codebook::output`], otherwise refused.
        code,
    }
}
