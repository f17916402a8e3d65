//! Prepares the recurrence core for a configuration of ssd: kernels, fragments, tiles and costs. Pure: no wgpu type.
//!
//! Keys are b, values are x and queries are c. The step of a token multiplies its values and determines its decay. The
//! number of column splits `s` is 1 up to P = 64 with S = 64 and `P S / 4096` beyond.

use super::{Config, NAME};
use crate::cores::recurrence::kernels::*;
use crate::cores::recurrence::{Core, Decay, Params, Tiles};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Program};
use crate::gpu::shader::{Bind, Fragment, Kernel, fragment};
use crate::operator::qkv;
use crate::tensor::Layout;

const IDENTITY: Fragment = fragment!("cores/recurrence/feature_identity.wgsl");
const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");
const TENSORS: Fragment = fragment!("ssd/types.wgsl");
const STEPS: Fragment = fragment!("ssd/steps.wgsl");
const DECAY: Fragment = fragment!("ssd/decay.wgsl");
const FINISH: Fragment = fragment!("ssd/finish.wgsl");
const GATE: Fragment = fragment!("ssd/gate.wgsl");
const NO_GATE: Fragment = fragment!("ssd/no_gate.wgsl");

const fn output(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        EXPONENTIAL,
        ACTIVATIONS,
        ROWS,
        STATE_WRITE,
        STATE_READ,
        ROWS_KEYS,
        ROWS_QUERIES,
        STEPS,
        DECAY,
        FINISH,
        PLAIN.quotient,
        STORED,
        OUTPUT_CORE,
        fragment!("ssd/output.wgsl"),
    ];
    kernel("ssd_output", sources, bindings, Some(PROOF))
}

const fn decode(bindings: Bindings) -> Kernel {
    let sources = &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        EXPONENTIAL,
        ACTIVATIONS,
        ROWS_DECODE,
        STEPS,
        FINISH,
        PLAIN.decode_quotient,
        DECODE_CORE,
        fragment!("ssd/decode.wgsl"),
    ];
    kernel("ssd_decode", sources, bindings, None)
}

const DT: (&str, Bind) = ("dt", Bind::Read);
const Z: (&str, Bind) = ("z", Bind::Read);

static SEGMENT: Kernel = kernel(
    "ssd_segment",
    &[
        STRIDES_TYPES,
        TYPES,
        DECAYS,
        TENSORS,
        EXPONENTIAL,
        ACTIVATIONS,
        ROWS,
        STATE_WRITE,
        ROWS_KEYS,
        STEPS,
        DECAY,
        STORED,
        SEGMENT_CORE,
        fragment!("ssd/segment.wgsl"),
    ],
    &[K, V, SEGMENTS, DT, WEIGHTS],
    Some(PROOF),
);
static SCAN: Kernel = kernel(
    "ssd_scan",
    &[STRIDES_TYPES, TYPES, DECAYS, SCAN_CORE, fragment!("ssd/scan.wgsl")],
    &[SEGMENTS, UPDATED],
    Some(SCAN_PROOF),
);
static OUTPUT: Kernel = output(&[K, V, Q, O, SEGMENTS, DT, WEIGHTS]);
static GATED_OUTPUT: Kernel = output(&[K, V, Q, O, SEGMENTS, DT, WEIGHTS, Z]);
static DECODE: Kernel = decode(&[K, V, Q, UPDATED, O, DT, WEIGHTS]);
static GATED_DECODE: Kernel = decode(&[K, V, Q, UPDATED, O, DT, WEIGHTS, Z]);

static KERNELS: Kernels = Kernels { segment: &SEGMENT, scan: &SCAN, output: &OUTPUT, decode: &DECODE };
static GATED: Kernels = Kernels { segment: &SEGMENT, scan: &SCAN, output: &GATED_OUTPUT, decode: &GATED_DECODE };

/// Numbers of elements of x, dt and b.
fn elements(c: &Config) -> [f64; 3] {
    let tokens = c.batch as f64 * c.length as f64;
    [tokens * (c.heads * c.dim) as f64, tokens * c.heads as f64, tokens * (c.groups * c.states) as f64]
}

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [x, dt, b] = elements(c);
    let (size, gated) = (c.dtype.size() as f64, f64::from(u8::from(c.z)));
    let state = if c.mode.carry { (c.batch * c.heads * c.dim * c.states * 4) as f64 } else { 0.0 };
    let weights: usize = c.weights_slot().parts.iter().map(|part| part.shape.count() * 4).sum();
    Cost {
        flops: 4.0 * x * c.states as f64,
        exps: dt * (1.0 + f64::from(u8::from(c.softplus))) + gated * x,
        bytes_read: (x + dt + 2.0 * b + gated * x) * size + state + weights as f64,
        bytes_written: x * size + state,
    }
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let (qkv, slots) = (c.qkv(), c.slots());
    let at = |name: &str| slots.iter().position(|slot| slot.name == name);
    let weights = c.weights_slot();
    let offset = |name: &str| weights.parts.iter().find(|part| part.name == name).map_or(0, |part| part.offset as u32);
    let of = |heads, dim| qkv::strides_of(Layout::Bnhd, heads, c.length, dim);
    let params = Params { g: of(c.heads, 1), skip: offset("d"), bias: offset("dt_bias"), ..Params::default() };
    let more: Vec<usize> = at("dt").into_iter().chain(at("weights")).collect();
    let gate = if c.z { GATE } else { NO_GATE };
    let (size, bias) = (c.dtype.size() as f64, f64::from(u8::from(c.dt_bias)));
    let exps = 1.0 + f64::from(u8::from(c.softplus)) + f64::from(u8::from(c.a_log));
    let [skip, gated] = [c.d, c.z].map(|there| f64::from(u8::from(there)));
    let finish_cost =
        Cost { exps: c.dim as f64 * gated, bytes_read: c.dim as f64 * (4.0 * skip + size * gated), ..Cost::default() };
    // When decoding, each head reads b and c of its group and its own weights. It reads d once per column, and x a
    // second time.
    let heads = (c.batch * c.heads) as f64;
    let shared = 2.0 * (heads - (c.batch * c.groups) as f64) * c.states as f64 * size;
    let own = heads * (4.0 * (1.0 + bias) + skip * c.dim as f64 * (4.0 + size));
    let read: usize = weights.parts.iter().map(|part| part.shape.count() * 4).sum();
    let core = Core {
        op: NAME,
        qkv: &qkv,
        slots: slots.clone(),
        weights: None,
        kernels: if c.z { &GATED } else { &KERNELS },
        fragments: vec![IDENTITY, gate],
        segment_fragments: vec![],
        output_fragments: vec![],
        decode_fragments: vec![IDENTITY, gate],
        more_output: more.iter().copied().chain(at("z")).collect(),
        more,
        more_const: "STEPS",
        overrides: vec![("A_LOG", c.a_log.into()), ("SOFTPLUS", c.softplus.into()), ("BIASED", c.dt_bias.into())],
        output_overrides: vec![("SKIPPED", c.d.into()), ("GATED", c.z.into())],
        decay: Decay::Head,
        gate: at("dt"),
        strides: [of(c.groups, c.states), of(c.groups, c.states), of(c.heads, c.dim), of(c.heads, c.dim)],
        share: c.heads / c.groups,
        beside_o: at("z"),
        position: false,
        transposed: true,
        consts: vec![],
        decode_consts: vec![("MAX_DIM", super::MAX_STATES as u32)],
        rows: c.states,
        mode: c.mode,
        normalize: false,
        scale: 1.0,
        norm_eps: 0.0,
        params,
        row_splits: 1,
        split_step: 0,
        feature: Cost::default(),
        weight_bytes: (0.0, 0.0),
        decode_more: shared + own - read as f64,
        decay_cost: Cost { exps, bytes_read: size + 4.0 * (1.0 + bias), ..Cost::default() },
        finish_cost,
        essential: essential(c),
    };
    let tiles = Tiles::new(c.states, c.dim, 1, None, 1, 0, false).for_several();
    core.program(&c.state_slot(), &tiles, caps)
}
