//! Prepares the recurrence core for a configuration of linear attention: kernels, fragments, tiles and costs. Pure: no
//! wgpu type.
//!
//! The number of column splits `s` is 1 up to E = 64, 2 up to 128, 4 up to 256 (see
//! [`recurrence`](crate::cores::recurrence)).

use super::{Config, FeatureMap, Gate, MAX_DIM, NAME};
use crate::cores::recurrence::kernels::*;
use crate::cores::recurrence::{Core, Decay, Params, Tiles};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::gpu::shader::{Bind, Fragment, Kernel, fragment};
use crate::operator::qkv;

pub(super) const TENSORS: Fragment = fragment!("linear/types.wgsl");
pub(super) const GATED: Fragment = fragment!("linear/gated.wgsl");
pub(super) const GATED_DECODE: Fragment = fragment!("linear/gated_decode.wgsl");

const PROJECTED: Fragment = fragment!("linear/projected.wgsl");
const PROJECTED_DECODE: Fragment = fragment!("linear/projected_decode.wgsl");
const PROJECTED_RELU: Fragment = fragment!("linear/projected_relu.wgsl");
const PROJECTED_RELU_DECODE: Fragment = fragment!("linear/projected_relu_decode.wgsl");

pub(super) const GATE: (&str, Bind) = ("gate", Bind::Read);

const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const LEVELS: Fragment = fragment!("linear/running_max.wgsl");
const SOFTMAX: Fragment = fragment!("linear/favor_features.wgsl");
const SOFTMAX_DECODE: Fragment = fragment!("linear/favor_decode.wgsl");
const LOG_NONE: Fragment = fragment!("linear/log_none.wgsl");
const LOG_GATE: Fragment = fragment!("linear/log_gate.wgsl");
const LOG_NONE_DECODE: Fragment = fragment!("linear/log_none_decode.wgsl");
const LOG_GATE_DECODE: Fragment = fragment!("linear/log_gate_decode.wgsl");
const ANGLE: Fragment = fragment!("linear/angle.wgsl");
const TURNED_KEYS: Fragment = fragment!("linear/cosformer_keys.wgsl");
const TURNED_QUERIES: Fragment = fragment!("linear/cosformer_queries.wgsl");
const TURNED_DECODE: Fragment = fragment!("linear/cosformer_decode.wgsl");
const PLACE_NONE: Fragment = fragment!("linear/position_none.wgsl");
const PLACE_SEGMENT: Fragment = fragment!("linear/position_segment.wgsl");
const PLACE_OUTPUT: Fragment = fragment!("linear/position_output.wgsl");

const OMEGA: (&str, Bind) = ("omega", Bind::Read);

/// Bytes of workgroup memory on a portable device.
const WORKGROUP_BYTES: usize = 16384;

/// The kernel of the first pass of performer.
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
        ROWS,
        STATE_WRITE,
        STORED,
        SEGMENT_CORE,
        fragment!("linear/performer_segment.wgsl"),
    ];
    kernel("linear_performer_segment", sources, bindings, Some(PROOF))
}

/// The kernel of the second pass of performer.
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
        ROWS,
        STATE_WRITE,
        VECTORS_QUERIES,
        STATE_READ,
        fragment!("linear/favor_normalize.wgsl"),
        PLAIN.output,
        STORED,
        OUTPUT_CORE,
        fragment!("linear/performer_output.wgsl"),
    ];
    kernel("linear_performer_output", sources, bindings, Some(PROOF))
}

// The following kernels get their features and decays as fragments.
const fn segment(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        ROWS,
        STATE_WRITE,
        STORED,
        SEGMENT_CORE,
        fragment!("linear/segment.wgsl"),
    ];
    kernel("linear_segment", sources, bindings, Some(PROOF))
}

const fn output(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        ROWS,
        STATE_WRITE,
        STATE_READ,
        PLAIN.quotient,
        PLAIN.output,
        STORED,
        OUTPUT_CORE,
        fragment!("linear/output.wgsl"),
    ];
    kernel("linear_output", sources, bindings, Some(PROOF))
}

const fn decode(bindings: Bindings) -> Kernel {
    let sources = &[STRIDES_TYPES, TYPES, DECAYS, TENSORS, PLAIN.decode, DECODE_CORE, fragment!("linear/decode.wgsl")];
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
    &[STRIDES_TYPES, TYPES, DECAYS, SCAN_CORE, fragment!("linear/scan.wgsl")],
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

/// The fragments that compute features: those of both passes, those of only the first and of only the second pass, and
/// those of decoding.
fn feature_sources(c: &Config) -> [Vec<Fragment>; 4] {
    let of_elements = |map| [vec![map, ROWS_KEYS], vec![], vec![ROWS_QUERIES], vec![map, ROWS_DECODE]];
    match c.feature_map() {
        FeatureMap::Elu1 => of_elements(fragment!("cores/recurrence/feature_elu1.wgsl")),
        FeatureMap::Relu => of_elements(fragment!("cores/recurrence/feature_relu.wgsl")),
        FeatureMap::Identity => of_elements(fragment!("cores/recurrence/feature_identity.wgsl")),
        // Performer has its own kernels for both passes.
        FeatureMap::Performer => [vec![], vec![], vec![], vec![EXPONENTIAL, LEVELS, PROJECTED_DECODE, SOFTMAX_DECODE]],
        FeatureMap::Cosformer => [
            vec![ANGLE, TURNED_KEYS],
            vec![if c.mode.carry { PLACE_SEGMENT } else { PLACE_NONE }],
            vec![TURNED_QUERIES, if c.mode.carry { PLACE_OUTPUT } else { PLACE_NONE }],
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

/// Work to compute the features of one vector, without reading the vector.
fn feature(c: &Config) -> Cost {
    let (d, f) = (c.qkv.dim_k as f64, c.width() as f64);
    match c.feature_map() {
        FeatureMap::Elu1 => Cost { exps: d, ..Cost::default() },
        FeatureMap::Relu | FeatureMap::Identity => Cost::default(),
        FeatureMap::Cosformer => Cost { flops: 2.0 * d, ..Cost::default() },
        FeatureMap::Performer => Cost { flops: 2.0 * d * f, exps: f, ..Cost::default() },
        FeatureMap::PerformerRelu => Cost { flops: 2.0 * d * f, ..Cost::default() },
    }
}

/// Bytes of omega that one vector is multiplied with, and bytes of all of omega.
fn omega_bytes(c: &Config) -> (f64, f64) {
    let one = if c.feature_map().projects() { (c.features * c.qkv.dim_k * 4) as f64 } else { 0.0 };
    (one, one * if c.omega_per_head { c.qkv.kv_heads as f64 } else { 1.0 })
}

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let vectors = (q + k) / c.qkv.dim_k as f64;
    let (width, e) = (c.width() as f64, c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let feature = feature(c) * vectors;
    let state = if c.mode.carry { c.qkv.kv_units() as f64 * state_len(c) as f64 * 4.0 } else { 0.0 };
    let columns = e + if c.normalize() { 1.0 } else { 0.0 };
    let tokens = (c.qkv.kv_units() * c.qkv.keys) as f64;
    let gates = tokens * c.gates_each() as f64;
    let beta = if c.rule.is_delta() { tokens } else { 0.0 };
    // Under the delta rules, keys read the state before they write it.
    let meets = vectors + if c.rule.is_delta() { k / c.qkv.dim_k as f64 } else { 0.0 };
    Cost {
        flops: feature.flops + 2.0 * meets * width * columns,
        exps: feature.exps + gates,
        bytes_read: (q + k + v + gates + beta) * size + state + omega_bytes(c).1,
        bytes_written: o * size + state,
    }
}

/// Elements of the state of one key head.
fn state_len(c: &Config) -> usize {
    c.width() * (c.qkv.dim_v + usize::from(c.normalize())) + usize::from(c.feature_map() == FeatureMap::Performer)
}

/// Chooses the tiles of a configuration.
pub(super) fn tiles(c: &Config) -> Tiles {
    // The cosine and the sine half are each padded to groups of four.
    let rows = if c.feature_map() == FeatureMap::Cosformer { 8 * c.qkv.dim_k.div_ceil(4) } else { c.width() };
    let performer = c.feature_map() == FeatureMap::Performer;
    let decays = c.gates_each().max(usize::from(performer));
    let with = |token_floats| {
        let fixed = 4 * usize::from(performer);
        Tiles::new(rows, c.qkv.dim_v, c.qkv.group(), token_floats, decays, fixed, c.normalize()).for_several()
    };
    let tiles = with(None);
    match c.feature_map() {
        FeatureMap::Elu1 | FeatureMap::Relu | FeatureMap::Identity | FeatureMap::Cosformer => tiles,
        // Workgroup memory also holds the vector itself.
        FeatureMap::PerformerRelu => with(Some(tiles.token_floats + 4 * c.qkv.dim_k.div_ceil(4))),
        // Workgroup memory also holds the vector and its largest exponent: the result, and a partial result of each of
        // eight lanes.
        FeatureMap::Performer => with(Some(tiles.token_floats + 4 * c.qkv.dim_k.div_ceil(4) + 9)),
    }
}

/// Chooses how a configuration processes the sequence.
#[cfg(test)]
fn walk(c: &Config, caps: &Caps) -> crate::cores::recurrence::Passes {
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
    let performer = c.feature_map() == FeatureMap::Performer;
    let decay = if performer { Decay::Stabilized } else { decay(c) };
    let [mut fragments, segment_fragments, output_fragments, mut decode_fragments] = feature_sources(c);
    // The part of the carried state that is not a sum. Pass 1 reads it if it is a position.
    let state = c.state_slot();
    let extra_state = state.parts.iter().find(|part| ["position", "log_scale"].contains(&part.name));
    let placed = extra_state.filter(|part| c.mode.carry && part.name == "position").and_then(|_| at("state"));
    let [decays, decode_decays] = match (performer, gate.is_some()) {
        (false, false) => [vec![PLAIN.decay], vec![PLAIN.decode_decay, PLAIN.decode_quotient]],
        (false, true) => [vec![GATED], vec![GATED_DECODE, PLAIN.decode_quotient]],
        (true, false) => [vec![LOG_NONE], vec![LOG_NONE_DECODE]],
        (true, true) => [vec![LOG_GATE], vec![LOG_GATE_DECODE]],
    };
    fragments.extend(decays);
    decode_fragments.extend(decode_decays);
    let consts = if FeatureMap::OF_ELEMENTS.contains(&c.feature_map()) {
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
        mode: c.mode,
        normalize: c.normalize(),
        scale: c.effective_scale(),
        norm_eps: c.norm_eps(),
        params: Params {
            g,
            omega: heads_apart as u32,
            extra_state: extra_state.map_or(0, |part| part.offset as u32),
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

/// Builds the dispatches for this device.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::recurrence::Passes;
    use crate::operator::Operator;
    use crate::operator::qkv::Qkv;
    use crate::tensor::DType;

    /// Planning is pure, so it can be tested at shapes that no machine here could hold.
    #[test]
    fn bytes_and_segments_of_large_shapes() {
        let caps = Caps::roomy();
        for (dim, splits) in [(16, 1.0), (64, 1.0), (128, 2.0), (256, 4.0)] {
            for dtype in [DType::F32, DType::F16] {
                for group in [1, 4, 64] {
                    let len = if group == 64 { 1 << 17 } else { 1 << 21 };
                    let c = Config::new(
                        Qkv::new().heads(group.max(4)).len(len).dim(dim).dtype(dtype).kv_heads(4 / group.min(4)),
                    );
                    let program = c.program(&caps).unwrap();
                    assert_eq!(program.steps().len(), 3, "two passes and a scan");
                    let tiles = Tiles::new(dim, dim, c.qkv.group(), None, 0, 0, true);
                    let heads = tiles.head_splits as f64;
                    let (q, k) = (1.0 / (2.0 + 2.0 / c.qkv.group() as f64), 1.0 / (2.0 + 2.0 * c.qkv.group() as f64));
                    let essential = c.cost().bytes();
                    // Pass 1 reads k and v; pass 2 reads q, k and v and writes o. q and k are read once per column
                    // split, k and v once per head split.
                    let stream = essential * (q * (splits + 1.0) + k * (splits + 1.0) * (1.0 + heads));
                    let states = program.cost().bytes() - stream;
                    assert!(
                        states > 0.0 && states <= 0.1 * essential,
                        "{dim} {dtype} {group}: {states} of {essential}"
                    );
                    if c.qkv.group() == 1 {
                        let claimed = (3.0 * splits + 3.0) / 4.0 * essential;
                        assert!((stream - claimed).abs() < 1e-9 * claimed, "{dim} {dtype}: {stream} {claimed}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_pass_where_heads_fill_the_machine_and_no_dispatch_takes_too_long() {
        let caps = Caps { full_groups: 1024, dispatch_flops: 2e12, ..Caps::portable() };
        let few = Config::new(Qkv::new().heads(16).len(65536).dim(64));
        let many = Config::new(Qkv::new().batch(64).heads(16).len(65536).dim(64));
        assert!(matches!(walk(&few, &caps), Passes::ReduceThenScan { .. }));
        assert_eq!(walk(&many, &caps), Passes::Sequential);
        assert_eq!(walk(&Config::new(Qkv::new().heads(16).len(65).dim(64)), &caps), Passes::Sequential);
        let given = Config { mode: many.mode.segment(100), ..many.clone() };
        assert_eq!(walk(&given, &caps), Passes::ReduceThenScan { keys: 100, queries: 100 });
        // A slower device splits the same sequence into segments, so that workgroups that fill the device once stay
        // within the work limit of a dispatch.
        let slow = Caps { dispatch_flops: 2e11, ..caps };
        let Passes::ReduceThenScan { keys, .. } = walk(&many, &slow) else { panic!("one pass of 65536 tokens") };
        let round = 1024.0 * keys as f64 * 2.0 * 2.0 * 64.0 * 65.0;
        assert!(round <= 2.1e11, "{keys} tokens are {round} operations");
    }

    #[test]
    fn tiles_fit_the_portable_budget_at_every_dim() {
        for dim_k in 1..=MAX_DIM {
            for dim_v in [1, 7, 64, 65, 130, 256] {
                for group in [1, 2, 3, 8, 64] {
                    for decays in [0, 1, dim_k] {
                        let t = Tiles::new(dim_k, dim_v, group, None, decays, 0, true);
                        let few = t.for_several();
                        assert!(
                            few.workgroup_bytes() <= 16384 && few.segment_bytes(few.segment_tile) <= 16384,
                            "{few:?}"
                        );
                        assert!(few.segment_tile.is_multiple_of(few.tile), "{few:?}");
                        assert!(t.workgroup_bytes() <= 16384, "{dim_k} {dim_v} {group} {decays}: {t:?}");
                        assert!(t.row_threads * t.col_threads <= 256);
                        assert!(t.rows * t.row_threads >= dim_k && 4 * t.col_threads * t.col_splits >= dim_v);
                        assert!(t.read_heads * t.head_splits >= group);
                    }
                }
            }
        }
    }
}
