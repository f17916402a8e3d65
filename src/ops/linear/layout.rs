//! From a configuration to what the core of the recurrences wants to know. Pure: no wgpu type.
//!
//! `s`, the column splits, is 1 up to E = 64, 2 up to 128, 4 up to 256 (see [`recurrence`](crate::ops::recurrence)).

use super::{Config, FeatureMap, MAX_DIM, NAME};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::gpu::source::{Bind, Kernel, Source, source};
use crate::ops::Operator;
use crate::ops::recurrence::{
    self as core, Core, FIELDS, Kernels, PROOF, Params, STATE_READ, STATE_WRITE, STORED, STRIDES_TYPES, TYPES, Tiles,
    Walk,
};

const TENSORS: Source = source!("linear/types.wgsl");
const KEYS: Source = source!("linear/keys.wgsl");

static SEGMENT: Kernel = Kernel {
    name: "linear_segment",
    sources: &[STRIDES_TYPES, TYPES, TENSORS, STATE_WRITE, KEYS, STORED, core::SEGMENT, source!("linear/segment.wgsl")],
    bindings: &[("k", Bind::Read), ("v", Bind::Read), ("segments", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: Some(PROOF),
};

static SCAN: Kernel = Kernel {
    name: "linear_scan",
    sources: &[STRIDES_TYPES, TYPES, core::SCAN, source!("linear/scan.wgsl")],
    bindings: &[("segments", Bind::Write), ("state", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: Some(core::SCAN_PROOF),
};

static OUTPUT: Kernel = Kernel {
    name: "linear_output",
    sources: &[
        STRIDES_TYPES,
        TYPES,
        TENSORS,
        STATE_WRITE,
        STATE_READ,
        KEYS,
        STORED,
        core::OUTPUT,
        source!("linear/output.wgsl"),
    ],
    bindings: &[
        ("k", Bind::Read),
        ("v", Bind::Read),
        ("q", Bind::Read),
        ("state", Bind::Read),
        ("o", Bind::Write),
        ("segments", Bind::Write),
    ],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: Some(PROOF),
};

static DECODE: Kernel = Kernel {
    name: "linear_decode",
    sources: &[STRIDES_TYPES, TYPES, TENSORS, core::DECODE, source!("linear/decode.wgsl")],
    bindings: &[("k", Bind::Read), ("v", Bind::Read), ("q", Bind::Read), ("state", Bind::Write), ("o", Bind::Write)],
    params: FIELDS,
    params_size: size_of::<Params>(),
    bounds_proof: None,
};

static KERNELS: Kernels = Kernels { segment: &SEGMENT, scan: &SCAN, output: &OUTPUT, decode: &DECODE };

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
    Cost {
        flops: 2.0 * (q + k) * (e + norm / d),
        exps: (q + k) * exps_each(c),
        bytes_read: (q + k + v) * size + state,
        bytes_written: o * size + state,
    }
}

/// Elements of a key head's state.
fn state_len(c: &Config) -> usize {
    c.qkv.dim_k * (c.qkv.dim_v + usize::from(c.normalize))
}

/// The tiles of a configuration.
pub fn tiles(c: &Config) -> Tiles {
    Tiles::new(c.qkv.dim_k, c.qkv.dim_v, c.qkv.group(), None, 0)
}

/// How a configuration is walked.
pub fn walk(c: &Config, caps: &Caps) -> Walk {
    core(c).walk(&tiles(c), caps)
}

fn core(c: &Config) -> Core<'_> {
    Core {
        op: NAME,
        qkv: &c.qkv,
        slots: c.slots(),
        weights: None,
        kernels: &KERNELS,
        fragments: vec![feature_source(c.feature_map)],
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
        params: Params::default(),
        row_splits: 1,
        split_step: 0,
        feature: Cost { exps: c.qkv.dim_k as f64 * exps_each(c), ..Cost::default() },
        weight_bytes: (0.0, 0.0),
        decode_weights: 0.0,
        essential: essential(c),
    }
}

/// What a GPU has to do.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    core(c).program(&c.state_slot(), &tiles(c), caps)
}
