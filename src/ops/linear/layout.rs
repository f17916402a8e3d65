//! Prepares the recurrence core for a configuration of linear attention: kernels, fragments, tiles and costs. Pure: no
//! wgpu type.
//!
//! The number of column splits `s` is 1 up to E = 64, 2 up to 128, 4 up to 256 (see
//! [`recurrence`](crate::cores::recurrence)).

use super::prepare::prepared;
use super::{Config, Decays, FeatureMap, Gate, NAME};
use crate::cores::recurrence::kernels::{self, *};
use crate::cores::recurrence::{
    CarriedState, ChunkFeatures, Decay, DecayKind, Epilogue, Features, Prepared, Recurrence, Stored, Tiles,
    WORKGROUP_BYTES,
};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Own, Program};
use crate::gpu::shader::{Fragment, Kernel, fragment, params};
use crate::operator::mode::StateLayout;
use crate::tensor::Slot;

const GATED: [Fragment; 2] = [fragment!("linear/gated.wgsl"), DECAY_TOKENS];
const GATED_ROWS: Fragment = fragment!("linear/gated_rows.wgsl");
const GATE_ROWS_WIDE: Fragment = fragment!("linear/gate_rows_wide.wgsl");
const GATE_ROWS_NARROW: Fragment = fragment!("linear/gate_rows_narrow.wgsl");
const GATED_DECODE: Fragment = fragment!("linear/gated_decode.wgsl");
const LOG_NONE: [Fragment; 2] = [fragment!("linear/log_none.wgsl"), fragment!("linear/log_none_decode.wgsl")];
const LOG_GATE: [Fragment; 2] = [fragment!("linear/log_gate.wgsl"), fragment!("linear/log_gate_decode.wgsl")];

const OWN: Fragment = fragment!("linear/own.wgsl");
const PRODUCT: Fragment = fragment!("linear/product.wgsl");
const STORED: Fragment = fragment!("linear/stored.wgsl");
const PRODUCT_RELU: Fragment = fragment!("linear/product_relu.wgsl");
const STORED_RELU: Fragment = fragment!("linear/stored_relu.wgsl");
const PRODUCT_FAVOR: Fragment = fragment!("linear/product_favor.wgsl");
const PROJECTED_DECODE: Fragment = fragment!("linear/projected_decode.wgsl");
const PROJECTED_RELU_DECODE: Fragment = fragment!("linear/projected_relu_decode.wgsl");
const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const RUNNING_MAX: Fragment = fragment!("linear/running_max.wgsl");
const FAVOR: [Fragment; 2] = [fragment!("linear/favor_features.wgsl"), fragment!("linear/favor_decode.wgsl")];
const FAVOR_NORMALIZE: Fragment = fragment!("linear/favor_normalize.wgsl");
const ANGLE: Fragment = fragment!("linear/angle.wgsl");
const COSFORMER_KEYS: Fragment = fragment!("linear/cosformer_keys.wgsl");
const COSFORMER_QUERIES: Fragment = fragment!("linear/cosformer_queries.wgsl");
const COSFORMER_DECODE: Fragment = fragment!("linear/cosformer_decode.wgsl");
const POSITION_NONE: Fragment = fragment!("linear/position_none.wgsl");
const POSITION_CARRIED: Fragment = fragment!("linear/position_carried.wgsl");

static FEATURES: Kernel = kernels::features("linear_features");
pub(super) static KERNELS: Kernels = Kernels::new([
    "linear_segment",
    "linear_scan",
    "linear_output",
    "linear_scores",
    "linear_chunk",
    "linear_segment_matrix",
    "linear_chunk_matrix",
    "linear_decode",
    "linear_tokens",
    "linear_round",
    "linear_borders",
]);

params! {
    /// Must match `struct Own` in `shaders/linear/own.wgsl`.
    struct Factors {
        map: [f32; 4],
        omega: u32,
        max_len: u32,
        _pad: [u32; 2],
    }
}

/// Rows for which a decode kernel has workgroup memory: the same for most configurations, so that there are few pipelines.
pub(super) fn decode_rows(c: &Config) -> u32 {
    c.width().next_power_of_two().max(256) as u32
}

/// The features of a configuration.
fn features(c: &Config) -> Features {
    let max_dim = decode_rows(c);
    let mapped = |map| Features {
        rows: c.width(),
        keys: vec![map, MAPPED_KEYS, PLAIN_WALK],
        queries: vec![MAPPED_QUERIES, PLAIN_SUMS, ONE_PART],
        decode: vec![map, MAPPED_DECODE],
        chunk: Some(ChunkFeatures::mapped(map, c.width())),
        consts: vec![],
        decode_consts: vec![("MAX_DIM", max_dim)],
        row_splits: None,
        cost: feature(c),
        stored: None,
    };
    let whole = |keys: &[Fragment], queries: &[Fragment], decode: &[Fragment]| Features {
        keys: keys.to_vec(),
        queries: queries.to_vec(),
        decode: [&[OWN], decode].concat(),
        chunk: None,
        consts: vec![("DIM_K4", c.qkv.dim_k.div_ceil(4) as u32)],
        decode_consts: vec![("MAX_DIM", max_dim), ("DIM_K4", c.qkv.dim_k.div_ceil(4) as u32)],
        ..mapped(IDENTITY)
    };
    let projected = |keys: &[Fragment], decode: &[Fragment], products: &[Fragment]| {
        let stored = stored(c, products);
        // The exponentials of performer are left to the walks.
        let cost = Cost { flops: 0.0, ..feature(c) };
        let consts = vec![("MAPPED4", stored.products as u32)];
        let whole = whole(keys, &[PLAIN_SUMS, ONE_PART], decode);
        Features { consts, cost, stored: Some(stored), ..whole }
    };
    let position = if c.mode.carry { POSITION_CARRIED } else { POSITION_NONE };
    match c.feature_map() {
        FeatureMap::Elu1 => mapped(fragment!("cores/recurrence/feature_elu1.wgsl")),
        FeatureMap::Relu => mapped(fragment!("cores/recurrence/feature_relu.wgsl")),
        FeatureMap::Identity => mapped(IDENTITY),
        FeatureMap::Performer => projected(
            &[OWN, EXPONENTIAL, RUNNING_MAX, STORED, FAVOR[0]],
            &[EXPONENTIAL, RUNNING_MAX, PROJECTED_DECODE, FAVOR[1]],
            &[PRODUCT_FAVOR],
        ),
        FeatureMap::PerformerRelu => projected(
            &[STORED, STORED_RELU, PLAIN_WALK],
            &[PROJECTED_DECODE, PROJECTED_RELU_DECODE],
            &[PRODUCT_RELU, PLAIN_VECTORS],
        ),
        FeatureMap::Cosformer => whole(
            &[OWN, ANGLE, COSFORMER_KEYS, position],
            &[COSFORMER_QUERIES, PLAIN_SUMS, ONE_PART],
            &[ANGLE, COSFORMER_DECODE],
        ),
    }
}

/// Features that are stored: products with omega, and the largest of a vector under performer.
fn stored(c: &Config, fragments: &[Fragment]) -> Stored {
    let products = c.features.div_ceil(4);
    let largest = usize::from(c.feature_map() == FeatureMap::Performer);
    let row = products + largest;
    let bytes_written = 16.0 * row as f64;
    Stored {
        kernel: &FEATURES,
        fragments: [&[OWN, PRODUCT], fragments].concat(),
        consts: vec![("RANDOM", c.features as u32)],
        floats: largest,
        largest: false,
        products,
        row,
        loaded: row,
        weights: omega_bytes(c).0,
        cost: Cost { flops: feature(c).flops, bytes_written, ..Cost::default() },
    }
}

/// The decay of a configuration.
pub(super) fn decay_of(c: &Config, slots: &[Slot]) -> Decay {
    let slot = slots.iter().position(|slot| slot.name == "g").filter(|_| c.decays == Decays::PerToken);
    let kind = if c.feature_map() == FeatureMap::Performer { DecayKind::Stabilized } else { decays(c) };
    let (mut tiled, decode) = match kind {
        DecayKind::Stabilized => {
            let [tiled, decode] = if c.rule.gate().is_some() { LOG_GATE } else { LOG_NONE };
            (vec![tiled], decode)
        }
        DecayKind::PerHead => (GATED.to_vec(), GATED_DECODE),
        DecayKind::PerRow => {
            let wide = c.qkv.dim_k.is_multiple_of(4);
            (vec![if wide { GATE_ROWS_WIDE } else { GATE_ROWS_NARROW }, GATED_ROWS], GATED_DECODE)
        }
        DecayKind::None => (vec![NO_DECAY[0]], NO_DECAY[1]),
    };
    tiled.push(c.gates_fragment());
    // Decays of one per head come with a factor of the values.
    tiled.extend((kind != DecayKind::PerHead).then_some(PLAIN_VALUES));
    Decay {
        kind,
        slot,
        strides: if c.rule.gate().is_some() { c.gate_strides() } else { Default::default() },
        tiled,
        decode: vec![c.gates_fragment(), decode],
        cost: Cost {
            exps: c.gates_each() as f64,
            bytes_read: (c.gates_each() * c.gate_sizes()[0]) as f64,
            ..Cost::default()
        },
    }
}

/// The uniform of a feature map that has one.
fn own(c: &Config) -> Option<Own> {
    if FeatureMap::OF_ELEMENTS.contains(&c.feature_map()) {
        return None;
    }
    let (d, f) = (c.qkv.dim_k as f64, c.features as f64);
    Some(Own::new(&Factors {
        map: [d.powf(-0.25), d.powf(-0.5), f.powf(-0.5), 0.0].map(|x| x as f32),
        omega: if c.omega_per_head { (c.features * c.qkv.dim_k) as u32 } else { 0 },
        max_len: c.effective_max_len() as u32,
        _pad: [0; 2],
    }))
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
    (one, one * if c.omega_per_head { c.qkv.key_heads() as f64 } else { 1.0 })
}

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [q, k, v, o] = c.qkv.elements();
    let vectors = (q + k) / c.qkv.dim_k as f64;
    let (width, e) = (c.width() as f64, c.qkv.dim_v as f64);
    let size = c.qkv.dtype.size() as f64;
    let feature = feature(c) * vectors;
    let states = c.mode.states(c.qkv.batch) * c.qkv.kv_heads;
    let state = if c.mode.carry { (states * state_len(c)) as f64 * 4.0 } else { 0.0 };
    let columns = e + if c.normalize() { 1.0 } else { 0.0 };
    let tokens = (c.qkv.kv_units() * c.qkv.keys) as f64;
    let gates = tokens * c.gates_each() as f64;
    // Under the delta rules, keys read the state before they write it.
    let meets = vectors + if c.rule.is_delta() { k / c.qkv.dim_k as f64 } else { 0.0 };
    Cost {
        flops: feature.flops + 2.0 * meets * width * columns,
        exps: feature.exps + gates,
        bytes_read: (q + k + v) * size + c.gate_bytes() + c.mode.border_bytes() + state + omega_bytes(c).1,
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
    // Workgroup memory of the decays of a performer is counted with its features.
    let decays = if performer { 0 } else { c.gates_each() };
    let with = |token_floats| {
        let fixed = 4 * usize::from(performer);
        Tiles::new(rows, c.qkv.dim_v, c.qkv.group(), token_floats, decays, fixed, c.normalize()).for_several()
    };
    // Workgroup memory also holds the decay of a performer's token with its logarithm, and the largest exponent of a
    // vector, as it is stored and as the tile takes it.
    with(performer.then(|| 4 * rows.div_ceil(4) + 4))
}

/// Chooses how a configuration processes the sequence.
#[cfg(test)]
fn walk(c: &Config, caps: &Caps) -> crate::cores::recurrence::Passes {
    recurrence(c, Prepared::default()).walk(&tiles(c), caps)
}

/// How the state decays.
pub(super) fn decays(c: &Config) -> DecayKind {
    match c.rule.gate() {
        None => DecayKind::None,
        Some(Gate::Head) => DecayKind::PerHead,
        Some(Gate::Channel) => DecayKind::PerRow,
    }
}

fn recurrence(c: &Config, prepared: Prepared) -> Recurrence<'_> {
    let slots = c.slots();
    let state = c.state_slot();
    // The part of the carried state that is not a sum.
    let extra = state.parts.iter().find(|part| ["position", "log_scale"].contains(&part.name));
    let performer = c.feature_map() == FeatureMap::Performer;
    let (met, all) = omega_bytes(c);
    let vectors = (c.qkv.batch * (c.qkv.heads + c.qkv.kv_heads)) as f64;
    let mut decode = vec![NO_EPILOGUE[1]];
    // performer's features of a token come with their own division.
    decode.extend((!performer).then_some(NORMALIZE[1]));
    Recurrence {
        op: NAME,
        qkv: &c.qkv,
        aliases: &[("gate", "g")],
        kernels: &KERNELS,
        features: features(c),
        prepared,
        decay: decay_of(c, &slots),
        epilogue: Epilogue {
            tiled: vec![if performer { FAVOR_NORMALIZE } else { NORMALIZE[0] }, NO_EPILOGUE[0]],
            decode,
            overrides: vec![],
            beside_o: None,
            reads_values: false,
            cost: Cost::default(),
        },
        state: CarriedState {
            extra: extra.map_or(0, |part| part.offset),
            position: c.mode.carry && c.feature_map() == FeatureMap::Cosformer,
            transposed: c.mode.state_layout == StateLayout::Ed,
            slot: state.clone(),
        },
        normalize: c.normalize().then_some(c.norm_eps()),
        scale: c.effective_scale(),
        mode: c.mode,
        overrides: vec![],
        own: own(c).into_iter().collect(),
        essential: essential(c),
        decode_more: met * vectors - all + c.more_gate_bytes(),
        convolved: None,
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
    recurrence(c, prepared(c, &c.slots(), caps)?).program(&tiles, caps)
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
        for dim_k in (1..=256).chain([300, 511, 700, super::super::MAX_DIM]) {
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
