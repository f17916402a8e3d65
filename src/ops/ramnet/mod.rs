//! RAM-Net: a large memory of slots that each token addresses sparsely, to write and to read.
//!
//! For every batch entry and head, with S = P^U slots of content `[E]` and a mass each, and for every token t in order:
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
//! The K slots are those of the level-wise beam over f32 prefix sums of the raw logits, digit 0 first, ties to the
//! smaller address, in every backend and in the definition at either precision, so that all address the same slots. A
//! weight that underflows f32 is no write and no read. gamma of plus infinity overwrites, of minus infinity forgets
//! nothing. Under pdma the state is the mean form S, not the sums. Sources: arXiv 2602.11958 (v2 gsu, v1 pdma), its
//! companion site.
//!
//! Cost: a token and head takes up to `2 U K P` additions to address, `5 K E` flops and 2 K rows of the memory,
//! whatever S.

mod cases;
#[cfg(feature = "cpu")]
mod cpu;
pub mod layout;
mod reference;

use super::{
    AxisDefault, Causality, Cost, Definition, Domain, Draw, Flag, FlagKind, Flags, Op, Operator, Precision, Qkv,
    Request, Rows, TensorSpec, qkv,
};
use crate::error::Error;
use crate::gpu::pack;
use crate::gpu::program::{Program, check_memory};
use crate::gpu::{Caps, Plan, Recording, Workspace};
#[cfg(feature = "cpu")]
use crate::ops::execute::check_inputs;
use crate::tensor::{Access, DType, Layout, Part, Shape, Slot, Tensor, TensorMap};

const NAME: &str = "ramnet";

/// The most slots of a head: P^U.
pub const MAX_SLOTS: usize = 65536;

/// The most slots that a token writes, and reads.
pub const MAX_TOPK: usize = 64;

/// The most heads of which some have CAPE and some have not.
pub const MAX_CAPE_HEADS: usize = 1024;

/// Choices P of a digit where no flag says one.
pub const DEFAULT_CHOICES: usize = 4;

/// Slots K of an access where no flag says one.
pub const DEFAULT_TOPK: usize = 8;

const INPUTS: [TensorSpec; 4] = [
    TensorSpec::sequence("q", "B H N U*P"),
    TensorSpec::sequence("k", "B H N U*P"),
    TensorSpec::sequence("v", "B H N E"),
    TensorSpec::sequence("gamma", "B H N").of(Domain::Extended),
];

/// This operator's row.
pub const OP: Op = Op {
    name: NAME,
    summary: "RAM-Net: a large memory of slots, sparsely addressed, written and read by every token",
    inputs: &INPUTS,
    outputs: &[qkv::OUTPUT],
    state: &[
        TensorSpec::state("state", "B H P^U E"),
        TensorSpec::state("mass", "B H P^U").drawn(Draw::Positive),
        TensorSpec::state("position", "1").drawn(Draw::Shaped(far)),
    ],
    axes: &[qkv::AXES[0], qkv::AXES[1], qkv::AXES[3], ("U*P", AxisDefault::Length(20)), ("E", AxisDefault::Length(64))],
    flags: &[
        Flag { name: "choices", kind: FlagKind::Count, help: "choices P of a digit (4); slots are P^U" },
        Flag { name: "topk", kind: FlagKind::Count, help: "slots K that a token writes, and reads (8)" },
        Flag { name: "rule", kind: FlagKind::Choice(&["gsu", "pdma"]), help: "what a write leaves of the mass (gsu)" },
        Flag {
            name: "cape",
            kind: FlagKind::Text("none|all|H,H,..."),
            help: "heads whose slots turn by one a token (none)",
        },
        Flag { name: "tau", kind: FlagKind::Number, help: "temperature of the addresses (1)" },
        Flag { name: "mass-eps", kind: FlagKind::Number, help: "added to the mass (1e-12 gsu, 1e-6 pdma)" },
    ],
    causal: Causality::Always,
    recurrent: true,
    complexity: "N K (U P + E)",
    usage,
    configure,
    cases: cases::cases,
};

/// A position some tokens into a sequence.
fn far(_: &Shape, values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = (x.abs() * 1e4).floor());
}

/// What a write leaves of the mass of its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Gated sparse update, of the paper's second version: `(1 - w) / (1 - w + e^gamma w)`.
    Gsu,
    /// Power decay moving average, of its first: `(1 - w)^gamma`.
    Pdma,
}

/// Which heads have CAPE, the cyclic positional embedding of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cape {
    /// None.
    None,
    /// All.
    All,
    /// These.
    Heads(Vec<usize>),
}

impl Cape {
    /// Whether this head has it.
    pub fn has(&self, head: usize) -> bool {
        match self {
            Cape::None => false,
            Cape::All => true,
            Cape::Heads(heads) => heads.contains(&head),
        }
    }
}

/// Shape and settings. [`Config::new`] has the defaults; fields are public.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Shapes of q, k, v and o, their storage and axis order: D = U P, M = N, G = H.
    pub qkv: Qkv,
    /// P: choices of a digit.
    pub choices: usize,
    /// K: slots that a token writes, and reads.
    pub topk: usize,
    /// What a write leaves of the mass.
    pub rule: Rule,
    /// Heads whose slots turn by one a token.
    pub cape: Cape,
    /// Temperature of the addresses.
    pub tau: f32,
    /// Added to the mass; `None`: 1e-12, under pdma 1e-6.
    pub mass_eps: Option<f32>,
    /// Tokens of a segment, at whose ends blocks end too; `None`: blocks are as long as the plan makes them.
    pub segment: Option<usize>,
    /// Whether the state is read before and written after. Without it the memory starts empty and is not returned.
    pub carry: bool,
    /// The one-token form: one dispatch, needs N = 1 and `carry`.
    pub decode: bool,
}

impl Config {
    /// f32 in layout bhnd, U digits of four choices, eight slots, rule gsu, no CAPE, without a carried state.
    pub fn new(batch: usize, heads: usize, len: usize, digits: usize, dim_v: usize) -> Self {
        Self {
            qkv: Qkv::new(batch, heads, len, digits * DEFAULT_CHOICES, dim_v),
            choices: DEFAULT_CHOICES,
            topk: DEFAULT_TOPK,
            rule: Rule::Gsu,
            cape: Cape::None,
            tau: 1.0,
            mass_eps: None,
            segment: None,
            carry: false,
            decode: false,
        }
    }

    /// U: digits of an address.
    pub fn digits(&self) -> usize {
        self.qkv.dim_k / self.choices.max(1)
    }

    /// P^U: slots of a head; saturates.
    pub fn slots_of_a_head(&self) -> usize {
        self.choices.saturating_pow(self.digits().try_into().unwrap_or(u32::MAX))
    }

    /// What is added to the mass.
    pub fn effective_mass_eps(&self) -> f32 {
        let default = if self.rule == Rule::Gsu { 1e-12 } else { 1e-6 };
        self.mass_eps.unwrap_or(default)
    }

    /// Mass of every slot in the beginning.
    pub fn initial_mass(&self) -> f32 {
        if self.rule == Rule::Gsu { 1.0 / self.slots_of_a_head() as f32 } else { 0.0 }
    }

    /// Checks what the fields alone can get wrong.
    ///
    /// # Errors
    /// One sentence naming the tensor or setting.
    pub fn validate(&self) -> Result<(), Error> {
        let Qkv { heads, kv_heads, queries, keys, dim_k, .. } = self.qkv;
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
        super::check_walk(NAME, queries, keys, true, self.carry, self.decode, self.segment)?;
        check_memory(NAME, &self.slots())
    }

    /// The packed state: `state [B, H, P^U, E]`, `mass [B, H, P^U]` and `position [1]`, i64 in files, of which every
    /// head has a copy.
    pub fn state_slot(&self) -> Slot {
        let Qkv { batch, heads, dim_v, .. } = self.qkv;
        self.memory("state", [batch, heads], dim_v)
    }

    /// A memory of so many heads.
    fn memory(&self, name: &'static str, [batch, heads]: [usize; 2], dim_v: usize) -> Slot {
        let slots = self.slots_of_a_head();
        let content = Part::new("state", [batch, heads, slots, dim_v], DType::F32);
        let mass = Part { initial: self.initial_mass(), ..Part::new("mass", [batch, heads, slots], DType::F32) };
        let position = Part { copies: batch.saturating_mul(heads), ..Part::new("position", [1], DType::I64) };
        pack::placed(name, Access::Update, DType::F32, vec![content, mass, position])
    }
}

/// Slots in the order of [`Operator::slots`]: q, k, v, o, gamma, and the state when it is carried.
impl Operator for Config {
    fn slots(&self) -> Vec<Slot> {
        let Qkv { batch, heads, queries, layout, dtype, .. } = self.qkv;
        let mut slots = self.qkv.slots();
        let gamma: Shape = match layout {
            Layout::Bhnd => [batch, heads, queries].into(),
            Layout::Bnhd => [batch, queries, heads].into(),
        };
        slots.push(Slot::plain("gamma", Access::Read, dtype, gamma));
        if self.carry {
            slots.push(self.state_slot());
        }
        slots
    }

    fn program(&self, caps: &Caps) -> Result<Program, Error> {
        layout::program(self, caps)
    }

    #[cfg(feature = "cpu")]
    fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
        self.validate()?;
        check_inputs(NAME, &self.slots(), tensors)?;
        Ok(cpu::run(self, tensors))
    }

    #[cfg(feature = "cpu")]
    fn cpu_variant(&self) -> String {
        cpu::variant()
    }

    fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition {
        match precision {
            Precision::F32 => reference::outputs::<f32>(self, tensors, rows),
            Precision::F64 => reference::outputs::<f64>(self, tensors, rows),
        }
    }

    fn cost(&self) -> Cost {
        layout::essential(self)
    }
}

/// Tensors on the GPU, with the shapes of the module's formula.
#[derive(Debug, Clone, Copy)]
pub struct Tensors<'a> {
    /// `[B, H, N, U P]`.
    pub q: &'a Tensor,
    /// `[B, H, N, U P]`.
    pub k: &'a Tensor,
    /// `[B, H, N, E]`.
    pub v: &'a Tensor,
    /// `[B, H, N]`.
    pub gamma: &'a Tensor,
    /// `[B, H, N, E]`, written.
    pub o: &'a Tensor,
    /// State, mass and position in one buffer, see [`Config::state_slot`]; given if and only if [`Config::carry`].
    pub state: Option<&'a Tensor>,
}

/// Binds the tensors of a [`plan`](super::plan) made from a [`Config`].
///
/// # Errors
/// As [`Plan::bind`].
pub fn bind(plan: &Plan, tensors: Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
    let Tensors { q, k, v, gamma, o, state } = tensors;
    let mut named = vec![("q", q), ("k", k), ("v", v), ("gamma", gamma), ("o", o)];
    named.extend(state.map(|state| ("state", state)));
    plan.bind(&named, workspace)
}

/// `none`, `all`, or heads with commas between.
fn cape(flags: &Flags) -> Result<Cape, Error> {
    let word = flags.word("cape").unwrap_or("none");
    match word {
        "none" => Ok(Cape::None),
        "all" => Ok(Cape::All),
        _ => match word.split(',').map(|head| head.trim().parse()).collect::<Result<Vec<usize>, _>>() {
            Ok(heads) => Ok(Cape::Heads(heads)),
            Err(_) => {
                let text = format!("--cape: expected none, all or heads as 0,3,5, found `{word}`");
                Err(Error::Usage(format!("{NAME}: {text}")))
            }
        },
    }
}

fn usage(flags: &Flags) -> Result<(), Error> {
    for name in ["choices", "topk", "segment"] {
        flags.count(NAME, name)?;
    }
    if flags.count(NAME, "choices")?.is_some_and(|choices| !(2..=MAX_SLOTS).contains(&choices)) {
        let found = flags.word("choices").unwrap_or_default();
        return Err(Error::Usage(format!("{NAME}: --choices: expected 2 to {MAX_SLOTS}, found `{found}`")));
    }
    if flags.count(NAME, "topk")?.is_some_and(|topk| topk > MAX_TOPK) {
        let found = flags.word("topk").unwrap_or_default();
        return Err(Error::Usage(format!("{NAME}: --topk: expected 1 to {MAX_TOPK}, found `{found}`")));
    }
    if flags.number(NAME, "tau")?.is_some_and(|tau| tau <= 0.0) {
        return Err(Error::Usage(format!("{NAME}: --tau: expected a number over 0, found 0 or less")));
    }
    if flags.number(NAME, "mass-eps")?.is_some_and(|eps| eps < 0.0) {
        return Err(Error::Usage(format!("{NAME}: --mass-eps: expected 0 or more, found a negative number")));
    }
    cape(flags)?;
    super::check_decode_flags(NAME, flags)
}

fn configure(request: &Request<'_>) -> Result<Box<dyn Operator>, Error> {
    let flags = request.flags;
    usage(flags)?;
    let axes = |spec: &TensorSpec| -> Result<Vec<usize>, Error> {
        let mut dims = request.required(NAME, spec)?.dims().to_vec();
        if request.layout == Layout::Bnhd {
            dims.swap(1, 2);
        }
        Ok(dims)
    };
    let [q, k, v, gamma] = INPUTS;
    let first = axes(&q)?;
    for (spec, axes) in [(k, axes(&k)?), (v, axes(&v)?), (gamma, axes(&gamma)?)] {
        let same = if spec.name == "k" { 4 } else { 3 };
        let letters = ["batch B", "heads H", "length N", "last axis U*P"];
        for axis in 0..same {
            if axes[axis] != first[axis] {
                let expected = format!("{} = {} as in q", letters[axis], first[axis]);
                return Err(Error::tensor(NAME, spec.name, expected, axes[axis].to_string()));
            }
        }
    }
    let qkv = Qkv::new(first[0], first[1], first[2], first[3], axes(&v)?[3]);
    let config = Config {
        qkv: qkv.dtype(request.dtype).layout(request.layout),
        choices: flags.count(NAME, "choices")?.unwrap_or(DEFAULT_CHOICES),
        topk: flags.count(NAME, "topk")?.unwrap_or(DEFAULT_TOPK),
        rule: if flags.word("rule") == Some("pdma") { Rule::Pdma } else { Rule::Gsu },
        cape: cape(flags)?,
        tau: flags.number(NAME, "tau")?.unwrap_or(1.0),
        mass_eps: flags.number(NAME, "mass-eps")?,
        segment: flags.count(NAME, "segment")?,
        carry: request.carry,
        decode: flags.switch("decode").unwrap_or(false),
    };
    config.validate()?;
    Ok(Box::new(config))
}
