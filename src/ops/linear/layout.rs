//! From a configuration to what the core of the recurrences wants to know. Pure: no wgpu type.
//!
//! `s`, the column splits, is 1 up to E = 64, 2 up to 128, 4 up to 256 (see [`recurrence`](crate::ops::recurrence)).

use super::{Config, FeatureMap, Gate, MAX_DIM, NAME};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::gpu::source::{Bind, Kernel, Source, source};
use crate::ops::recurrence::kernels::*;
use crate::ops::recurrence::{Core, Decay, Params, Tiles, Walk};
use crate::ops::{Operator, qkv};

pub(super) const TENSORS: Source = source!("linear/types.wgsl");
pub(super) const GATED: Source = source!("linear/gated.wgsl");
pub(super) const GATED_DECODE: Source = source!("linear/gated_decode.wgsl");

const PROJECTED: Source = source!("linear/projected.wgsl");
const PROJECTED_DECODE: Source = source!("linear/projected_decode.wgsl");
const PROJECTED_RELU: Source = source!("linear/projected_relu.wgsl");
const PROJECTED_RELU_DECODE: Source = source!("linear/projected_relu_decode.wgsl");

pub(super) const GATE: (&str, Bind) = ("gate", Bind::Read);

const EXPONENTIAL: Source = source!("common/exponential.wgsl");
const LEVELS: Source = source!("linear/levels.wgsl");
const SOFTMAX: Source = source!("linear/softmax_features.wgsl");
const SOFTMAX_DECODE: Source = source!("linear/softmax_decode.wgsl");
const LOG_NONE: Source = source!("linear/log_none.wgsl");
const LOG_GATE: Source = source!("linear/log_gate.wgsl");
const LOG_NONE_DECODE: Source = source!("linear/log_none_decode.wgsl");
const LOG_GATE_DECODE: Source = source!("linear/log_gate_decode.wgsl");
const ANGLE: Source = source!("linear/angle.wgsl");
const TURNED_KEYS: Source = source!("linear/turned_keys.wgsl");
const TURNED_QUERIES: Source = source!("linear/turned_queries.wgsl");
const TURNED_DECODE: Source = source!("linear/turned_decode.wgsl");
const PLACE_NONE: Source = source!("linear/place_none.wgsl");
const PLACE_SEGMENT: Source = source!("linear/place_segment.wgsl");
const PLACE_OUTPUT: Source = source!("linear/place_output.wgsl");

const OMEGA: (&str, Bind) = ("omega", Bind::Read);

/// Bytes of workgroup memory on a portable device.
const WORKGROUP_BYTES: usize = 16384;

/// The first pass of performer.
const fn performer_segment(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        EXPONENTIAL,
        LEVELS,
        TENSORS,
        VECTORS_KEYS,
        PROJECTED,
        SOFTMAX,
        STATE_WRITE,
        STORED,
        SEGMENT_CORE,
        source!("linear/performer_segment.wgsl"),
    ];
    kernel("linear_performer_segment", sources, bindings, Some(PROOF))
}

/// Its second.
const fn performer_output(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        EXPONENTIAL,
        LEVELS,
        TENSORS,
        VECTORS_KEYS,
        PROJECTED,
        SOFTMAX,
        STATE_WRITE,
        VECTORS_QUERIES,
        STATE_READ,
        source!("linear/softmax_quotient.wgsl"),
        PLAIN.output,
        STORED,
        OUTPUT_CORE,
        source!("linear/performer_output.wgsl"),
    ];
    kernel("linear_performer_output", sources, bindings, Some(PROOF))
}

// Features and decays of all kernels come as fragments.
const fn segment(bindings: Bindings) -> Kernel {
    let sources =
        &[STRIDES_TYPES, TYPES, DECAYS, TENSORS, STATE_WRITE, STORED, SEGMENT_CORE, source!("linear/segment.wgsl")];
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
        PLAIN.quotient,
        PLAIN.output,
        STORED,
        OUTPUT_CORE,
        source!("linear/output.wgsl"),
    ];
    kernel("linear_output", sources, bindings, Some(PROOF))
}

const fn decode(bindings: Bindings) -> Kernel {
    let sources = &[STRIDES_TYPES, TYPES, DECAYS, TENSORS, PLAIN.decode, DECODE_CORE, source!("linear/decode.wgsl")];
    kernel("linear_decode", sources, bindings, None)
}

static SEGMENT: Kernel = segment(&[K, V, SEGMENTS]);
static GATED_SEGMENT: Kernel = segment(&[K, V, SEGMENTS, GATE]);
static PROJECTED_SEGMENT: Kernel = segment(&[K, V, SEGMENTS, OMEGA]);
static GATED_PROJECTED_SEGMENT: Kernel = segment(&[K, V, SEGMENTS, GATE, OMEGA]);
static PLACED_SEGMENT: Kernel = segment(&[K, V, SEGMENTS, STATE]);
static GATED_PLACED_SEGMENT: Kernel = segment(&[K, V, SEGMENTS, GATE, STATE]);
static PERFORMER_SEGMENT: Kernel = performer_segment(&[K, V, SEGMENTS, OMEGA]);
static GATED_PERFORMER_SEGMENT: Kernel = performer_segment(&[K, V, SEGMENTS, GATE, OMEGA]);
static PERFORMER_OUTPUT: Kernel = performer_output(&[K, V, Q, STATE, O, SEGMENTS, OMEGA]);
static GATED_PERFORMER_OUTPUT: Kernel = performer_output(&[K, V, Q, STATE, O, SEGMENTS, GATE, OMEGA]);
static OUTPUT: Kernel = output(&[K, V, Q, STATE, O, SEGMENTS]);
static GATED_OUTPUT: Kernel = output(&[K, V, Q, STATE, O, SEGMENTS, GATE]);
static PROJECTED_OUTPUT: Kernel = output(&[K, V, Q, STATE, O, SEGMENTS, OMEGA]);
static GATED_PROJECTED_OUTPUT: Kernel = output(&[K, V, Q, STATE, O, SEGMENTS, GATE, OMEGA]);
static DECODE: Kernel = decode(&[K, V, Q, UPDATED, O]);
static GATED_DECODE_KERNEL: Kernel = decode(&[K, V, Q, UPDATED, O, GATE]);
static PROJECTED_DECODE_KERNEL: Kernel = decode(&[K, V, Q, UPDATED, O, OMEGA]);
static GATED_PROJECTED_DECODE: Kernel = decode(&[K, V, Q, UPDATED, O, GATE, OMEGA]);

pub(super) static SCAN: Kernel = kernel(
    "linear_scan",
    &[STRIDES_TYPES, TYPES, DECAYS, SCAN_CORE, source!("linear/scan.wgsl")],
    &[SEGMENTS, UPDATED],
    Some(SCAN_PROOF),
);

static KERNELS: Kernels = Kernels { segment: &SEGMENT, scan: &SCAN, output: &OUTPUT, decode: &DECODE };
static GATED_KERNELS: Kernels =
    Kernels { segment: &GATED_SEGMENT, scan: &SCAN, output: &GATED_OUTPUT, decode: &GATED_DECODE_KERNEL };
static PROJECTED_KERNELS: Kernels =
    Kernels { segment: &PROJECTED_SEGMENT, scan: &SCAN, output: &PROJECTED_OUTPUT, decode: &PROJECTED_DECODE_KERNEL };
static GATED_PROJECTED_KERNELS: Kernels = Kernels {
    segment: &GATED_PROJECTED_SEGMENT,
    scan: &SCAN,
    output: &GATED_PROJECTED_OUTPUT,
    decode: &GATED_PROJECTED_DECODE,
};

static PERFORMER_KERNELS: Kernels =
    Kernels { segment: &PERFORMER_SEGMENT, scan: &SCAN, output: &PERFORMER_OUTPUT, decode: &PROJECTED_DECODE_KERNEL };
static GATED_PERFORMER_KERNELS: Kernels = Kernels {
    segment: &GATED_PERFORMER_SEGMENT,
    scan: &SCAN,
    output: &GATED_PERFORMER_OUTPUT,
    decode: &GATED_PROJECTED_DECODE,
};
static PLACED_KERNELS: Kernels = Kernels { segment: &PLACED_SEGMENT, scan: &SCAN, output: &OUTPUT, decode: &DECODE };
static GATED_PLACED_KERNELS: Kernels =
    Kernels { segment: &GATED_PLACED_SEGMENT, scan: &SCAN, output: &GATED_OUTPUT, decode: &GATED_DECODE_KERNEL };

/// What makes features: of both passes, more of the first and of the second, and of decoding.
fn feature_sources(c: &Config) -> [Vec<Source>; 4] {
    let of_elements = |map| [vec![map, ROWS_KEYS], vec![], vec![ROWS_QUERIES], vec![map, ROWS_DECODE]];
    match c.feature_map {
        FeatureMap::Elu1 => of_elements(source!("common/feature_elu1.wgsl")),
        FeatureMap::Relu => of_elements(source!("common/feature_relu.wgsl")),
        FeatureMap::Identity => of_elements(source!("common/feature_identity.wgsl")),
        // Both passes are kernels of their own.
        FeatureMap::Performer => [vec![], vec![], vec![], vec![EXPONENTIAL, LEVELS, PROJECTED_DECODE, SOFTMAX_DECODE]],
        FeatureMap::Cosformer => [
            vec![ANGLE, TURNED_KEYS],
            vec![if c.carry { PLACE_SEGMENT } else { PLACE_NONE }],
            vec![TURNED_QUERIES, if c.carry { PLACE_OUTPUT } else { PLACE_NONE }],
            vec![ANGLE, TURNED_DECODE],
        ],
        FeatureMap::PerformerRelu => [
            vec![VECTORS_KEYS, PROJECTED, PROJECTED_RELU],
            vec![],
            vec![VECTORS_QUERIES],
            vec![PROJECTED_DECODE, PROJECTED_RELU_DECODE],
        ],
    }
}

/// Work to make the features of one vector, beside reading it.
fn feature(c: &Config) -> Cost {
    let (d, f) = (c.qkv.dim_k as f64, c.width() as f64);
    match c.feature_map {
        FeatureMap::Elu1 => Cost { exps: d, ..Cost::default() },
        FeatureMap::Relu | FeatureMap::Identity => Cost::default(),
        FeatureMap::Cosformer => Cost { flops: 2.0 * d, ..Cost::default() },
        FeatureMap::Performer => Cost { flops: 2.0 * d * f, exps: f, ..Cost::default() },
        FeatureMap::PerformerRelu => Cost { flops: 2.0 * d * f, ..Cost::default() },
    }
}

/// Bytes of omega that a vector meets, and of all of it.
fn omega_bytes(c: &Config) -> (f64, f64) {
    let one = if c.feature_map.projects() { (c.features * c.qkv.dim_k * 4) as f64 } else { 0.0 };
    (one, one * if c.omega_per_head { c.qkv.kv_heads as f64 } else { 1.0 })
}

/// Essential work: each input read once, each output written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let vectors = (q + k) / c.qkv.dim_k as f64;
    let (width, e) = (c.width() as f64, c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let feature = feature(c) * vectors;
    let state = if c.carry { c.qkv.kv_units() as f64 * state_len(c) as f64 * 4.0 } else { 0.0 };
    let columns = e + if c.normalize { 1.0 } else { 0.0 };
    let tokens = (c.qkv.kv_units() * c.qkv.keys) as f64;
    let gates = tokens * c.gates_each() as f64;
    let beta = if c.rule.is_delta() { tokens } else { 0.0 };
    // Under the delta rules keys read the state as well as write it.
    let meets = vectors + if c.rule.is_delta() { k / c.qkv.dim_k as f64 } else { 0.0 };
    Cost {
        flops: feature.flops + 2.0 * meets * width * columns,
        exps: feature.exps + gates,
        bytes_read: (q + k + v + gates + beta) * size + state + omega_bytes(c).1,
        bytes_written: o * size + state,
    }
}

/// Elements of a key head's state.
fn state_len(c: &Config) -> usize {
    c.width() * (c.qkv.dim_v + usize::from(c.normalize)) + usize::from(c.feature_map == FeatureMap::Performer)
}

/// The tiles of a configuration.
pub fn tiles(c: &Config) -> Tiles {
    // Cosines and sines are filled up to groups of four.
    let rows = if c.feature_map == FeatureMap::Cosformer { 8 * c.qkv.dim_k.div_ceil(4) } else { c.width() };
    let performer = c.feature_map == FeatureMap::Performer;
    let decays = c.gates_each().max(usize::from(performer));
    let with =
        |token_floats| Tiles::new(rows, c.qkv.dim_v, c.qkv.group(), token_floats, decays, 4 * usize::from(performer));
    let tiles = with(None);
    match c.feature_map {
        FeatureMap::Elu1 | FeatureMap::Relu | FeatureMap::Identity | FeatureMap::Cosformer => tiles,
        // A vector lies beside its features.
        FeatureMap::PerformerRelu => with(Some(tiles.token_floats + 4 * c.qkv.dim_k.div_ceil(4))),
        // And the largest exponent, once whole and of eight lanes.
        FeatureMap::Performer => with(Some(tiles.token_floats + 4 * c.qkv.dim_k.div_ceil(4) + 9)),
    }
}

/// How a configuration is walked.
pub fn walk(c: &Config, caps: &Caps) -> Walk {
    core(c).walk(&tiles(c), caps)
}

/// How the state decays.
pub(super) fn decay(c: &Config) -> Decay {
    match c.rule.gate() {
        None => Decay::None,
        Some(Gate::Head) => Decay::Head,
        Some(Gate::Channel) => Decay::Row,
    }
}

fn core(c: &Config) -> Core<'_> {
    let slots = c.slots();
    let at = |name: &str| slots.iter().position(|slot| slot.name == name);
    let (gate, omega) = (at("g"), at("omega"));
    let performer = c.feature_map == FeatureMap::Performer;
    let decay = if performer { Decay::Level } else { decay(c) };
    let [mut fragments, segment_fragments, output_fragments, mut decode_fragments] = feature_sources(c);
    // What of the carried state is beside its sums, which pass 1 reads.
    let state = c.state_slot();
    let beside = state.parts.iter().find(|part| ["position", "log_scale"].contains(&part.name));
    let placed = beside.filter(|part| c.carry && part.name == "position").and_then(|_| at("state"));
    let [decays, decode_decays] = match (performer, gate.is_some()) {
        (false, false) => [vec![PLAIN.decay], vec![PLAIN.decode_decay, PLAIN.decode_quotient]],
        (false, true) => [vec![GATED], vec![GATED_DECODE, PLAIN.decode_quotient]],
        (true, false) => [vec![LOG_NONE], vec![LOG_NONE_DECODE]],
        (true, true) => [vec![LOG_GATE], vec![LOG_GATE_DECODE]],
    };
    fragments.extend(decays);
    decode_fragments.extend(decode_decays);
    let consts = if FeatureMap::OF_ELEMENTS.contains(&c.feature_map) {
        vec![]
    } else {
        vec![("GATED", gate.is_some().into()), ("DIM_K4", c.qkv.dim_k.div_ceil(4) as u32)]
    };
    let mut decode_consts = vec![("MAX_DIM", c.width().next_power_of_two().max(MAX_DIM) as u32)];
    decode_consts.extend(&consts);
    let g = qkv::strides_of(c.qkv.layout, c.qkv.kv_heads, c.qkv.keys, c.gates_each());
    let mut node = Params::default().node;
    if performer {
        let (d, f) = (c.qkv.dim_k as f64, c.features as f64);
        node[0] = [d.powf(-0.25), d.powf(-0.5), f.powf(-0.5), 0.0].map(|x| x as f32);
    }
    let heads_apart = if c.omega_per_head { c.features * c.qkv.dim_k } else { 0 };
    let (met, all) = omega_bytes(c);
    let vectors = (c.qkv.batch * (c.qkv.heads + c.qkv.kv_heads)) as f64;
    Core {
        op: NAME,
        qkv: &c.qkv,
        weights: None,
        kernels: match (gate.is_some(), omega.is_some(), placed.is_some()) {
            (false, false, false) => &KERNELS,
            (true, false, false) => &GATED_KERNELS,
            (false, false, true) => &PLACED_KERNELS,
            (true, false, true) => &GATED_PLACED_KERNELS,
            (false, true, _) if performer => &PERFORMER_KERNELS,
            (true, true, _) if performer => &GATED_PERFORMER_KERNELS,
            (false, true, _) => &PROJECTED_KERNELS,
            (true, true, _) => &GATED_PROJECTED_KERNELS,
        },
        fragments,
        segment_fragments,
        output_fragments,
        decode_fragments,
        more: gate.into_iter().chain(omega).chain(placed).collect(),
        more_output: gate.into_iter().chain(omega).collect(),
        more_const: "GATE",
        overrides: vec![],
        output_overrides: vec![],
        strides: c.qkv.strides(),
        share: 1,
        beside_o: None,
        position: placed.is_some(),
        transposed: false,
        decay,
        gate,
        consts,
        decode_consts,
        rows: c.width(),
        causal: c.causal,
        normalize: c.normalize,
        scale: c.effective_scale(),
        norm_eps: c.norm_eps,
        segment: c.segment,
        carry: c.carry,
        decode: c.decode,
        params: Params {
            g,
            omega: heads_apart as u32,
            beside: beside.map_or(0, |part| part.offset as u32),
            max_len: c.effective_max_len() as u32,
            node,
            ..Params::default()
        },
        row_splits: 1,
        split_step: 0,
        feature: feature(c),
        weight_bytes: (0.0, met),
        decode_more: met * vectors - all,
        decay_cost: Cost {
            exps: c.gates_each() as f64,
            bytes_read: (c.gates_each() * c.qkv.dtype.size()) as f64,
            ..Cost::default()
        },
        finish_cost: Cost::default(),
        essential: essential(c),
        slots,
    }
}

/// What a GPU has to do.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let tiles = tiles(c);
    let needed = tiles.workgroup_bytes();
    if needed > WORKGROUP_BYTES {
        let what = format!("workgroup memory (bytes) for features of width {} and D = {}", c.width(), c.qkv.dim_k);
        return Err(Error::Limit { op: NAME.into(), what, needed: needed as u64, limit: WORKGROUP_BYTES as u64 });
    }
    core(c).program(&c.state_slot(), &tiles, caps)
}
