//! Prepares the recurrence core for a configuration of ssd: kernels, fragments, tiles and costs. Pure: no wgpu type.
//!
//! Keys are b, values are x and queries are c. The step of a token multiplies its values and determines its decay. The
//! number of column splits `s` is 1 up to P = 64 with S = 64 and `P S / 4096` beyond.

use super::{Config, NAME, convolved};
use crate::cores::recurrence::kernels::*;
use crate::cores::recurrence::{
    CarriedState, ChunkFeatures, Convolved, Decay, DecayKind, Epilogue, Features, Recurrence, Tiles,
};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::program::{Cost, Own, Program};
use crate::gpu::shader::{Fragment, fragment, params};
use crate::operator::mode::StateLayout;
use crate::operator::qkv::{self, Qkv};
use crate::tensor::{Layout, Slot};

const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");
const OWN: Fragment = fragment!("ssd/own.wgsl");
const STEPS: Fragment = fragment!("ssd/steps.wgsl");
const DECAY: Fragment = fragment!("ssd/decay.wgsl");
const DECODE: Fragment = fragment!("ssd/decode.wgsl");
const FINISH: Fragment = fragment!("ssd/finish.wgsl");
const EPILOGUE: Fragment = fragment!("ssd/epilogue.wgsl");
/// Taps of the convolution that decoding a token may begin with.
const TAPS: Fragment = fragment!("ssd/taps.wgsl");
const GATE: Fragment = fragment!("ssd/gate.wgsl");
const NO_GATE: Fragment = fragment!("ssd/no_gate.wgsl");

static KERNELS: Kernels = Kernels::new([
    "ssd_segment",
    "ssd_scan",
    "ssd_output",
    "ssd_scores",
    "ssd_chunk",
    "ssd_segment_matrix",
    "ssd_chunk_matrix",
    "ssd_decode",
    "ssd_tokens",
    "ssd_round",
    "ssd_borders",
]);

params! {
    /// Must match `struct Own` in `shaders/ssd/own.wgsl`.
    struct Offsets {
        skip: u32,
        bias: u32,
        channels: u32,
        taps: u32,
        dt_offset: f32,
        dt_min: f32,
        dt_max: f32,
        taps_bias: u32,
    }
}

/// Numbers of elements of x, dt and b.
fn elements(c: &Config) -> [f64; 3] {
    let tokens = c.batch as f64 * c.length as f64;
    [tokens * (c.heads * c.dim) as f64, tokens * c.heads as f64, tokens * (c.groups * c.states) as f64]
}

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let [x, dt, b] = elements(c);
    let (size, gated) = (c.dtype.size() as f64, f64::from(u8::from(c.z)));
    let state = if c.mode.carry { (c.mode.states(c.batch) * c.heads * c.dim * c.states * 4) as f64 } else { 0.0 };
    let weights: usize = c.weights_slot().parts.iter().map(|part| part.shape.count() * 4).sum();
    Cost {
        flops: 4.0 * x * c.states as f64,
        exps: dt * (1.0 + f64::from(u8::from(c.steps.softplus))) + gated * x,
        bytes_read: (x + dt + 2.0 * b + gated * x) * size + state + weights as f64 + c.mode.border_bytes(),
        bytes_written: x * size + state,
    }
}

/// The same with the convolution in front of one token.
pub(super) fn essential_convolved(c: &convolved::Config) -> Cost {
    let (channels, step) = (c.channels(), essential(&c.step));
    let columns = (c.step.batch * channels) as f64;
    let taps: usize = c.conv.weights(channels).iter().map(|(_, shape)| shape.count()).sum();
    let state = columns * (4 * c.conv.span()) as f64;
    Cost {
        flops: step.flops + 2.0 * c.conv.width as f64 * columns,
        exps: step.exps + if c.conv.silu { columns } else { 0.0 },
        bytes_read: step.bytes_read + state + 4.0 * taps as f64,
        bytes_written: step.bytes_written + state,
    }
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    recurrence(c, &c.qkv(), c.slots(), None, essential(c)).program(&tiles(c), caps)
}

/// Builds the dispatch of one token with its convolution.
pub(super) fn program_convolved(c: &convolved::Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    let (inner, shared) = (c.step.heads * c.step.dim, c.step.groups * c.step.states);
    let convolved = Convolved {
        conv: c.conv,
        channels: c.channels(),
        starts: [inner + shared, inner, 0],
        output: convolved::Y,
        taps: vec![TAPS],
    };
    recurrence(&c.step, &c.step.qkv(), c.slots(), Some(convolved), essential_convolved(c))
        .program(&tiles(&c.step), caps)
}

fn tiles(c: &Config) -> Tiles {
    Tiles::new(c.states, c.dim, 1, None, 1, 0, false).for_several()
}

/// What the recurrence core runs over these slots.
fn recurrence<'a>(
    c: &Config,
    qkv: &'a Qkv,
    slots: Vec<Slot>,
    convolved: Option<Convolved>,
    essential: Cost,
) -> Recurrence<'a> {
    let at = |name: &str| slots.iter().position(|slot| slot.name == name);
    let weights = slots.iter().filter(|slot| slot.name == "weights").flat_map(|slot| &slot.parts);
    let offset = |name: &str| weights.clone().find(|part| part.name == name).map_or(0, |part| part.offset as u32);
    let of = |heads, dim| qkv::strides_of(Layout::Bnhd, heads, c.length, dim);
    let [dt_min, dt_max] = c.steps.limits();
    let own = Own::new(&Offsets {
        skip: offset("d"),
        bias: offset("dt_bias"),
        channels: c.d_per_channel.into(),
        taps: offset("conv_weight"),
        taps_bias: offset("conv_bias"),
        dt_offset: c.steps.offset,
        dt_min,
        dt_max,
    });
    let gate = if c.z { GATE } else { NO_GATE };
    let (size, bias) = (c.dtype.size() as f64, f64::from(u8::from(c.dt_bias)));
    let exps = 1.0 + f64::from(u8::from(c.steps.softplus)) + f64::from(u8::from(c.a_log));
    let [skip, gated] = [c.d, c.z].map(|there| f64::from(u8::from(there)));
    let finish_cost =
        Cost { exps: c.dim as f64 * gated, bytes_read: c.dim as f64 * (4.0 * skip + size * gated), ..Cost::default() };
    // When decoding, each head reads its own weights. It reads d once per column, and x a second time if that is not
    // convolved.
    let heads = (c.batch * c.length * c.heads) as f64;
    let again = if convolved.is_some() { 0.0 } else { size };
    let own_bytes = heads * (4.0 * (1.0 + bias) + skip * c.dim as f64 * (4.0 + again));
    let read: usize = c.weights().iter().map(|(_, shape)| shape.count() * 4).sum();
    let steps = [OWN, EXPONENTIAL, ACTIVATIONS, STEPS];
    let aliases: &[_] = match convolved {
        None => &[("k", "b"), ("v", "x"), ("q", "c"), ("o", "y")],
        Some(_) => &[("mixed", "xbc"), ("history", "conv_state"), ("o", "y")],
    };
    Recurrence {
        op: NAME,
        qkv,
        aliases,
        kernels: &KERNELS,
        prepared: Default::default(),
        features: Features {
            rows: c.states,
            keys: vec![IDENTITY, MAPPED_KEYS, PLAIN_WALK],
            queries: vec![MAPPED_QUERIES, PLAIN_SUMS, ONE_PART],
            decode: vec![IDENTITY, MAPPED_DECODE],
            chunk: Some(ChunkFeatures::mapped(IDENTITY, c.states)),
            consts: vec![],
            decode_consts: vec![("MAX_DIM", super::MAX_STATES as u32)],
            row_splits: None,
            cost: Cost::default(),
            stored: None,
        },
        decay: Decay {
            kind: DecayKind::PerHead,
            slot: at("dt"),
            strides: of(c.heads, 1),
            tiled: [&steps[..], &[DECAY, DECAY_TOKENS]].concat(),
            decode: steps.to_vec(),
            cost: Cost { exps, bytes_read: size + 4.0 * (1.0 + bias), ..Cost::default() },
        },
        epilogue: Epilogue {
            tiled: vec![NORMALIZE[0], gate, FINISH, EPILOGUE],
            decode: vec![NORMALIZE[1], gate, FINISH, DECODE],
            overrides: vec![("SKIPPED", c.d.into()), ("GATED", c.z.into())],
            beside_o: at("z"),
            reads_values: c.d,
            cost: finish_cost,
        },
        state: CarriedState {
            slot: c.state_slot(),
            transposed: c.mode.state_layout == StateLayout::De,
            extra: 0,
            position: false,
        },
        normalize: None,
        scale: 1.0,
        mode: c.mode,
        overrides: vec![
            ("A_LOG", c.a_log.into()),
            ("SOFTPLUS", c.steps.softplus.into()),
            ("BIASED", c.dt_bias.into()),
            ("LIMITED", c.steps.limited().into()),
        ],
        own: vec![own],
        essential,
        decode_more: own_bytes - read as f64,
        convolved,
        slots,
    }
}
