//! From a configuration to what the core of the recurrences wants to know. Pure: no wgpu type.
//!
//! `s`, the column splits, is 1 up to E = 64, 2 up to 128, 4 up to 256 (see [`recurrence`](crate::ops::recurrence)).

use super::{Config, FeatureMap, Gate, MAX_DIM, NAME, Rule};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::gpu::source::{Bind, Kernel, Source, source};
use crate::ops::recurrence::kernels::*;
use crate::ops::recurrence::{Core, Decay, Params, Tiles, Walk};
use crate::ops::{Operator, qkv};

const TENSORS: Source = source!("linear/types.wgsl");
const GATED: Source = source!("linear/gated.wgsl");
const GATED_DECODE: Source = source!("linear/gated_decode.wgsl");

const GATE: (&str, Bind) = ("gate", Bind::Read);

const fn segment(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        STATE_WRITE,
        ROWS_KEYS,
        STORED,
        SEGMENT_CORE,
        source!("linear/segment.wgsl"),
    ];
    kernel("linear_segment", sources, bindings, Some(PROOF))
}

const fn output(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        STATE_WRITE,
        STATE_READ,
        ROWS_KEYS,
        ROWS_QUERIES,
        PLAIN.output,
        STORED,
        OUTPUT_CORE,
        source!("linear/output.wgsl"),
    ];
    kernel("linear_output", sources, bindings, Some(PROOF))
}

const fn decode(bindings: Bindings) -> Kernel {
    let sources =
        &[STRIDES_TYPES, TYPES, DECAYS, TENSORS, ROWS_DECODE, PLAIN.decode, DECODE_CORE, source!("linear/decode.wgsl")];
    kernel("linear_decode", sources, bindings, None)
}

static SEGMENT: Kernel = segment(&[K, V, SEGMENTS]);
static GATED_SEGMENT: Kernel = segment(&[K, V, SEGMENTS, GATE]);
static OUTPUT: Kernel = output(&[K, V, Q, STATE, O, SEGMENTS]);
static GATED_OUTPUT: Kernel = output(&[K, V, Q, STATE, O, SEGMENTS, GATE]);
static DECODE: Kernel = decode(&[K, V, Q, UPDATED, O]);
static GATED_DECODE_KERNEL: Kernel = decode(&[K, V, Q, UPDATED, O, GATE]);

static SCAN: Kernel = kernel(
    "linear_scan",
    &[STRIDES_TYPES, TYPES, DECAYS, SCAN_CORE, source!("linear/scan.wgsl")],
    &[SEGMENTS, UPDATED],
    Some(SCAN_PROOF),
);

static KERNELS: Kernels = Kernels { segment: &SEGMENT, scan: &SCAN, output: &OUTPUT, decode: &DECODE };
static GATED_KERNELS: Kernels =
    Kernels { segment: &GATED_SEGMENT, scan: &SCAN, output: &GATED_OUTPUT, decode: &GATED_DECODE_KERNEL };

fn feature_source(map: FeatureMap) -> Source {
    match map {
        FeatureMap::Elu1 => source!("common/feature_elu1.wgsl"),
        FeatureMap::Relu => source!("common/feature_relu.wgsl"),
        FeatureMap::Identity => source!("common/feature_identity.wgsl"),
    }
}

/// Exponentials of one element's feature.
fn exps_each(c: &Config) -> f64 {
    if c.feature_map == FeatureMap::Elu1 { 1.0 } else { 0.0 }
}

/// Essential work: each input read once, each output written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let (d, e) = (c.qkv.dim_k as f64, c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let state = if c.carry { c.qkv.kv_units() as f64 * state_len(c) as f64 * 4.0 } else { 0.0 };
    let norm = if c.normalize { d } else { 0.0 };
    let gates = (c.qkv.kv_units() * c.qkv.keys * c.gates_each()) as f64;
    Cost {
        flops: 2.0 * (q + k) * (e + norm / d),
        exps: (q + k) * exps_each(c) + gates,
        bytes_read: (q + k + v + gates) * size + state,
        bytes_written: o * size + state,
    }
}

/// Elements of a key head's state.
fn state_len(c: &Config) -> usize {
    c.qkv.dim_k * (c.qkv.dim_v + usize::from(c.normalize))
}

/// The tiles of a configuration.
pub fn tiles(c: &Config) -> Tiles {
    Tiles::new(c.qkv.dim_k, c.qkv.dim_v, c.qkv.group(), None, c.gates_each(), 0)
}

/// How a configuration is walked.
pub fn walk(c: &Config, caps: &Caps) -> Walk {
    core(c).walk(&tiles(c), caps)
}

fn core(c: &Config) -> Core<'_> {
    let slots = c.slots();
    let gate = slots.iter().position(|slot| slot.name == "g");
    let decay = match c.rule {
        Rule::Linear => Decay::None,
        Rule::Gated(Gate::Head) => Decay::Head,
        Rule::Gated(Gate::Channel) => Decay::Row,
    };
    let with = |decay: Source| vec![feature_source(c.feature_map), decay];
    let g = qkv::strides_of(c.qkv.layout, c.qkv.kv_heads, c.qkv.keys, c.gates_each());
    Core {
        op: NAME,
        qkv: &c.qkv,
        slots,
        weights: None,
        kernels: if gate.is_some() { &GATED_KERNELS } else { &KERNELS },
        fragments: with(if gate.is_some() { GATED } else { PLAIN.decay }),
        decode_fragments: with(if gate.is_some() { GATED_DECODE } else { PLAIN.decode_decay }),
        more: gate.into_iter().collect(),
        more_output: gate.into_iter().collect(),
        more_const: "GATE",
        overrides: vec![],
        output_overrides: vec![],
        strides: c.qkv.strides(),
        share: 1,
        beside_o: None,
        transposed: false,
        decay,
        gate,
        consts: vec![],
        decode_consts: vec![("MAX_DIM", MAX_DIM as u32)],
        rows: c.qkv.dim_k,
        causal: c.causal,
        normalize: c.normalize,
        scale: c.effective_scale(),
        norm_eps: c.norm_eps,
        segment: c.segment,
        carry: c.carry,
        decode: c.decode,
        params: Params { g, ..Params::default() },
        row_splits: 1,
        split_step: 0,
        feature: Cost { exps: c.qkv.dim_k as f64 * exps_each(c), ..Cost::default() },
        weight_bytes: (0.0, 0.0),
        decode_more: 0.0,
        decay_cost: Cost {
            exps: c.gates_each() as f64,
            bytes_read: (c.gates_each() * c.qkv.dtype.size()) as f64,
            ..Cost::default()
        },
        finish_cost: Cost::default(),
        essential: essential(c),
    }
}

/// What a GPU has to do.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    core(c).program(&c.state_slot(), &tiles(c), caps)
}
