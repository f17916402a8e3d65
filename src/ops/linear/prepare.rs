//! Dispatches before the kernels of the rules: they compute log decays and strengths from the tensors in which models store
//! them, and one over the length of each vector of q and k. The kernels read these numbers, in f32, from the workspace.

use std::mem::offset_of;

use super::{Config, Decays, LENGTH_EPS, NAME};
use crate::cores::recurrence::{Prepared, STRIDES};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Scratch, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::{STRIDES_SOURCE, Strides, strides_of};
use crate::tensor::{Layout, Slot};

const PREPARE: Fragment = fragment!("linear/prepare.wgsl");
const GATES: Fragment = fragment!("linear/gates.wgsl");
const DECAY: Fragment = fragment!("linear/gate_decay.wgsl");
const STRENGTH: Fragment = fragment!("linear/gate_strength.wgsl");
const LENGTHS: Fragment = fragment!("linear/lengths.wgsl");
const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");
const GATES_STORED: Fragment = fragment!("linear/gates_stored.wgsl");
const GATES_F32: Fragment = fragment!("linear/gates_f32.wgsl");
const STRENGTHS_STORED: Fragment = fragment!("linear/strengths_stored.wgsl");
const STRENGTHS_F32: Fragment = fragment!("linear/strengths_f32.wgsl");

/// Why every index of these kernels is within bounds.
const PROOF: &str = "tokens and heads are guarded by their numbers; loops end at consts or uniforms";

static GATES_KERNEL: Kernel =
    Kernel::new("linear_gates", &[STRIDES_SOURCE, PREPARE, GATES], Prepare::UNIFORM, Some(PROOF));
static LENGTHS_KERNEL: Kernel =
    Kernel::new("linear_lengths", &[STRIDES_SOURCE, PREPARE, LENGTHS], Prepare::UNIFORM, Some(PROOF));

params! {
    /// Must match `struct Params` in `shaders/linear/prepare.wgsl`.
    struct Prepare {
        grid: Grid,
        heads: u32,
        tokens: u32,
        dim: u32,
        blocks: u32,
        bias: u32,
        eps: f32,
        _pad: [u32; 2],
        given: Strides,
        made: Strides,
    }
}

/// Tokens per workgroup: of the kernel for gates, and of the one for lengths.
const BLOCKS: [usize; 2] = [64, 4];

impl Config {
    /// Whether the kernels read log decays that were computed.
    pub(super) fn prepares_decays(&self) -> bool {
        matches!(self.decays, Decays::Computed { .. })
    }

    /// The element type of log decays.
    pub(super) fn gates_fragment(&self) -> Fragment {
        if self.prepares_decays() { GATES_F32 } else { GATES_STORED }
    }

    /// The element type of strengths.
    pub(super) fn strengths_fragment(&self) -> Fragment {
        if self.beta_sigmoid { STRENGTHS_F32 } else { STRENGTHS_STORED }
    }

    /// Bytes of a log decay and of a strength that the kernels read.
    pub(super) fn gate_sizes(&self) -> [usize; 2] {
        let stored = self.qkv.dtype.size();
        [self.prepares_decays(), self.beta_sigmoid].map(|prepared| if prepared { 4 } else { stored })
    }

    /// Bytes that the kernels read of log decays and strengths to decode, in addition to those of the tensors.
    pub(super) fn more_gate_bytes(&self) -> f64 {
        let [decay, strength] = self.gate_sizes();
        let strength = if self.rule.is_delta() { strength } else { 0 };
        let read = self.qkv.kv_units() * self.qkv.keys * (self.gates_each() * decay + strength);
        read as f64 - self.gate_bytes()
    }

    /// Bytes of the tensors with log decays and strengths.
    pub(super) fn gate_bytes(&self) -> f64 {
        let slots = [self.gate_slot(), self.gate_weights_slot(), self.beta_slot()];
        let parts = slots.iter().flatten().flat_map(|slot| &slot.parts);
        parts.map(|part| (part.shape.count() * part.dtype.size()) as f64).sum()
    }

    /// Strides of the log decays that the kernels read. One decay for all tokens has no stride along tokens.
    pub(super) fn gate_strides(&self) -> Strides {
        match self.decays {
            Decays::PerToken => strides_of(self.qkv.layout, self.qkv.kv_heads, self.qkv.keys, self.gates_each()),
            Decays::Constant => [0, 1, 0, 0],
            Decays::Computed { .. } => self.prepared_strides(),
        }
    }

    /// Strides of the strengths that the kernels read. One strength for all heads has no stride along heads.
    pub(super) fn strength_strides(&self) -> Strides {
        if self.beta_sigmoid { self.prepared_strides() } else { self.beta_strides() }
    }

    /// Strides of the tensor `beta`.
    fn beta_strides(&self) -> Strides {
        let heads = if self.beta_for_all_heads { 1 } else { self.qkv.kv_heads };
        let [batch, head, token, base] = strides_of(self.qkv.layout, heads, self.qkv.keys, 1);
        [batch, if self.beta_for_all_heads { 0 } else { head }, token, base]
    }

    /// Strides of one prepared number per token and key head.
    fn prepared_strides(&self) -> Strides {
        strides_of(Layout::Bhnd, self.qkv.kv_heads, self.qkv.keys, 1)
    }
}

/// A tensor of which a kernel makes one number per token and head.
struct Given {
    slot: usize,
    strides: Strides,
    heads: usize,
    tokens: usize,
    dim: usize,
}

/// The dispatches of a configuration, the buffers that they fill, and where the kernels find them.
pub(super) fn prepared(c: &Config, slots: &[Slot], caps: &Caps) -> Result<Prepared, Error> {
    let s = &c.qkv;
    let at = |name: &str| slots.iter().position(|slot| slot.name == name);
    let mut prepared = Prepared::default();
    let per_head = |slot, strides| Given { slot, strides, heads: s.kv_heads, tokens: s.keys, dim: 1 };
    if let (Decays::Computed { dt_bias }, Some(a)) = (c.decays, at("a")) {
        let made = scratch(&mut prepared, "log decays", s.kv_units() * s.keys);
        let given = per_head(a, strides_of(s.layout, s.kv_heads, s.keys, 1));
        let spec = Variant::new(s.dtype, vec![], vec![("BIASED", dt_bias.into())]);
        let spec = spec.with(&[EXPONENTIAL, ACTIVATIONS, DECAY]);
        let each = Cost { exps: 3.0, bytes_read: 4.0 * (1.0 + f64::from(u8::from(dt_bias))), ..Cost::default() };
        let weights = at("gate_weights").map(|slot| ("gate_weights", Operand::Slot(slot)));
        let to = (made, c.prepared_strides());
        let step = step(c, (&GATES_KERNEL, BLOCKS[0], spec), &given, to, each, weights.as_slice());
        prepared.steps.extend(s.cut(NAME, step, slots, &[(a, offset_of!(Prepare, given))], caps)?);
        prepared.operands.push(("gate", made));
    }
    if let (true, Some(beta)) = (c.beta_sigmoid, at("beta")) {
        let made = scratch(&mut prepared, "strengths", s.kv_units() * s.keys);
        let given = per_head(beta, c.beta_strides());
        let spec = Variant::new(s.dtype, vec![], vec![]).with(&[EXPONENTIAL, STRENGTH]);
        let each = Cost { exps: 1.0, ..Cost::default() };
        let to = (made, c.prepared_strides());
        let step = step(c, (&GATES_KERNEL, BLOCKS[0], spec), &given, to, each, &[]);
        let shares = [(beta, offset_of!(Prepare, given))];
        let shares = if c.beta_for_all_heads { &[][..] } else { &shares };
        prepared.steps.extend(s.cut(NAME, step, slots, shares, caps)?);
        prepared.operands.push(("beta", made));
    }
    if c.l2norm {
        let (queries, keys) = (s.batch * s.query_heads() * s.queries, s.batch * s.key_heads() * s.keys);
        let made = scratch(&mut prepared, "inverse lengths", queries + keys);
        let of = |heads, tokens| strides_of(Layout::Bhnd, heads, tokens, 1);
        let mut k_factor = of(s.key_heads(), s.keys);
        // Keys follow queries.
        k_factor[3] = (queries as u32).wrapping_neg();
        let factors = [of(s.query_heads(), s.queries), k_factor];
        let sizes = [(s.query_heads(), s.queries), (s.key_heads(), s.keys)];
        for (slot, ((heads, tokens), to)) in sizes.into_iter().zip(factors).enumerate() {
            let given = Given { slot, strides: s.strides()[slot], heads, tokens, dim: s.dim_k };
            let each = Cost { flops: 2.0 * s.dim_k as f64, ..Cost::default() };
            let spec = Variant::new(s.dtype, vec![], vec![]);
            let step = step(c, (&LENGTHS_KERNEL, BLOCKS[1], spec), &given, (made, to), each, &[]);
            let place = [(STRIDES[slot].0, offset_of!(Prepare, given))];
            prepared.steps.extend(s.strided(s.cut(NAME, step, slots, &place, caps)?, &place));
        }
        prepared.operands.push(("factors", made));
        prepared.factors = Some(factors);
    }
    Ok(prepared)
}

/// Adds a buffer of so many numbers to the workspace.
fn scratch(prepared: &mut Prepared, name: &'static str, count: usize) -> Operand {
    prepared.workspace.push(Scratch { name, bytes: 4 * count as u64 });
    Operand::Workspace(prepared.workspace.len() - 1)
}

/// A dispatch of `kernel`, which takes so many tokens per workgroup. `each` is its work per token and head, without
/// the tensor and the result.
fn step(
    c: &Config,
    (kernel, block, spec): (&'static Kernel, usize, Variant),
    given: &Given,
    (made, strides): (Operand, Strides),
    each: Cost,
    more: &[(&'static str, Operand)],
) -> Step {
    let blocks = given.tokens.div_ceil(block);
    let params = Prepare {
        heads: given.heads as u32,
        tokens: given.tokens as u32,
        dim: given.dim as u32,
        blocks: blocks as u32,
        bias: c.gate_weights_slot().and_then(|slot| Some(slot.parts.get(1)?.offset as u32)).unwrap_or(0),
        eps: LENGTH_EPS,
        given: given.strides,
        made: strides,
        ..Prepare::default()
    };
    let units = c.qkv.batch * given.heads;
    let bytes = Cost { bytes_read: (given.dim * c.qkv.dtype.size()) as f64, bytes_written: 4.0, ..Cost::default() };
    let cost = (each + bytes) * (units * given.tokens) as f64;
    let mut operands = vec![("given", Operand::Slot(given.slot)), ("made", made)];
    operands.extend(more);
    Step::new(kernel, spec, &params, &operands, (units * blocks) as u64, cost)
}
