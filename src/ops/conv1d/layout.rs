//! Builds the GPU program of a configuration: tiles, uniforms and dispatches. Pure: no wgpu type.
//!
//! An invocation computes strips of eight tokens of a channel, or of four channels next to each other. A workgroup processes
//! some strips of some channels, one or the other of which lie next to each other in memory. A second dispatch writes the
//! state. One token with a state is a kernel of its own, which does both.

use std::mem::offset_of;

use super::{Activation, ChannelLayout, Config, NAME};
use crate::cores::packed::PACKED_TOKENS;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Step, check_indices};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};

params! {
    /// Must match `struct Params` in `shaders/conv1d/types.wgsl`.
    struct Params {
        grid: Grid,
        units: u32,
        blocks: u32,
        channels: u32,
        length: u32,
        tiles: u32,
        bias: u32,
        base: u32,
        sequences: u32,
        dilation: u32,
        left: u32,
        states: u32,
        _pad: u32,
    }
}

const TYPES: Fragment = fragment!("conv1d/types.wgsl");
const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");
const TOKENS: Fragment = fragment!("conv1d/tokens.wgsl");
const ONE_CHANNEL: Fragment = fragment!("conv1d/one_channel.wgsl");
const FOUR_CHANNELS: Fragment = fragment!("conv1d/four_channels.wgsl");
const NARROW: Fragment = fragment!("conv1d/narrow.wgsl");
const WIDE_TOKENS: Fragment = fragment!("conv1d/wide_tokens.wgsl");
const WIDE_CHANNELS: Fragment = fragment!("conv1d/wide_channels.wgsl");
const TAPS_NEAR: Fragment = fragment!("conv1d/taps_near.wgsl");
const TAPS_APART: Fragment = fragment!("conv1d/taps_apart.wgsl");
const EXTENT_WHOLE: Fragment = fragment!("conv1d/extent_whole.wgsl");
const EXTENT_PACKED: Fragment = fragment!("conv1d/extent_packed.wgsl");
const SPANS_WHOLE: Fragment = fragment!("conv1d/spans_whole.wgsl");
const SPANS_PACKED: Fragment = fragment!("conv1d/spans_packed.wgsl");
const HISTORY: Fragment = fragment!("conv1d/history.wgsl");
const HISTORY_NONE: Fragment = fragment!("conv1d/history_none.wgsl");
const HISTORY_WHOLE: Fragment = fragment!("conv1d/history_whole.wgsl");
const HISTORY_PACKED: Fragment = fragment!("conv1d/history_packed.wgsl");

static OUTPUT: Kernel = Kernel::new(
    "conv1d_output",
    &[TYPES, EXPONENTIAL, ACTIVATIONS, fragment!("conv1d/output.wgsl")],
    Params::UNIFORM,
    Some(
        "units are guarded and tokens clamped by uniforms, borders by N, elements of the state by 0 and its length; arrays are \
         sized by the consts that end the loops, and other loops end at the number of sequences",
    ),
);

static STATE: Kernel = Kernel::new(
    "conv1d_state",
    &[TYPES, fragment!("conv1d/state.wgsl")],
    Params::UNIFORM,
    Some("rows and elements are guarded by uniforms, borders by N; the loop ends at a uniform"),
);

static DECODE: Kernel = Kernel::new(
    "conv1d_decode",
    &[TYPES, EXPONENTIAL, ACTIVATIONS, fragment!("conv1d/decode.wgsl")],
    Params::UNIFORM,
    Some(
        "rows are guarded and elements of the state clamped by uniforms, which end the loops; a row has one tap for each K",
    ),
);

// Indices of slots in `Config::slots`.
const X: usize = 0;
const Y: usize = 2;
const BASE: usize = offset_of!(Params, base);

/// Tokens of a strip.
const STRIP: usize = 8;
/// Rows per workgroup of the kernel for one token.
const DECODED: usize = 64;
/// Invocations per workgroup of the kernel that writes the state.
const STATE_LANES: usize = 64;
/// Floats in workgroup memory for the weights of a workgroup.
const TAPS: usize = 2304;

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let (elements, size) = (c.shape.elements(), c.shape.dtype.size() as f64);
    let weights: usize = c.weights_slot().parts.iter().map(|part| part.shape.count()).sum();
    let state = if c.mode.carry { window(c) * 4.0 } else { 0.0 };
    Cost {
        flops: 2.0 * c.width as f64 * elements,
        exps: if c.activation == Activation::Silu { elements } else { 0.0 },
        bytes_read: elements * size + weights as f64 * 4.0 + state + c.mode.border_bytes(),
        bytes_written: elements * size + state,
    }
}

/// Number of elements of the state.
fn window(c: &Config) -> f64 {
    c.mode.states(c.shape.batch) as f64 * c.shape.channels as f64 * c.span() as f64
}

/// How a workgroup covers tokens and channels.
struct Tiles<'a> {
    config: &'a Config,
    /// Channels per unit: 1, or 4 next to each other.
    each: usize,
    /// Strips per workgroup, computed side by side.
    strips: usize,
    /// Units per workgroup.
    units: usize,
    /// How often a workgroup computes as many strips.
    passes: usize,
}

impl<'a> Tiles<'a> {
    fn new(config: &'a Config) -> Self {
        let (shape, strips) = (config.shape, config.shape.length.div_ceil(STRIP));
        if config.layout == ChannelLayout::Bcn {
            let (strips, units) = match strips {
                ..=1 => (1, 64),
                2..=8 => (8, 16),
                9..=32 => (32, 4),
                _ => (128, 1),
            };
            let passes = if config.shape.length > STRIP * strips { 2 } else { 1 };
            return Self { config, each: 1, strips, units, passes };
        }
        let each = if shape.channels.is_multiple_of(4) { 4 } else { 1 };
        // The weights of a workgroup stay within its memory.
        let most = (TAPS / (each * (config.width + 1))).clamp(1, 64);
        let units = (shape.channels / each).next_power_of_two().min(1 << most.ilog2());
        let side = if strips == 1 { 1 } else { (128 / units).min(strips.next_power_of_two()) };
        Self { config, each, strips: side, units, passes: if strips > side { 2 } else { 1 } }
    }

    /// Whether x and y are accessed four elements at once.
    fn wide(&self) -> bool {
        self.each == 4 || (self.config.layout == ChannelLayout::Bcn && self.config.shape.length.is_multiple_of(4))
    }

    /// Tiles of tokens.
    fn tiles(&self) -> usize {
        self.config.shape.length.div_ceil(STRIP * self.strips * self.passes)
    }

    /// A block of channels that a workgroup processes, for people.
    fn block(&self) -> String {
        channels(self.units * self.each)
    }

    fn params(&self) -> Params {
        params(self.config, self.each, self.units, self.tiles())
    }
}

fn channels(count: usize) -> String {
    if count == 1 { "one channel".into() } else { format!("{count} channels") }
}

/// The rows that an outer index stands for, and the number of outer indices.
fn outer(c: &Config) -> [usize; 2] {
    match c.layout {
        ChannelLayout::Bcn => [c.shape.rows(), 1],
        ChannelLayout::Bnc => [c.shape.channels, c.shape.batch],
    }
}

/// The uniform of a kernel whose workgroups process so many units of `each` channels.
fn params(c: &Config, each: usize, units: usize, tiles: usize) -> Params {
    let all = outer(c)[0] / each;
    Params {
        units: all as u32,
        blocks: all.div_ceil(units) as u32,
        channels: c.shape.channels as u32,
        length: c.shape.length as u32,
        tiles: tiles as u32,
        bias: c.weights_slot().parts.get(1).map_or(0, |part| part.offset) as u32,
        sequences: c.mode.sequences.unwrap_or(1) as u32,
        dilation: c.dilation as u32,
        left: c.left() as u32,
        states: c.span() as u32,
        ..Params::default()
    }
}

/// Number of workgroups for tiles, or sequences, of blocks of units.
fn groups(c: &Config, params: &Params, tiles: usize) -> u64 {
    u64::from(params.blocks) * outer(c)[1] as u64 * tiles as u64
}

/// Splits a step whose workgroups process blocks of so many rows.
fn cut(c: &Config, step: Step, rows: usize, caps: &Caps) -> Result<Vec<Step>, Error> {
    let slots = [(X, "x"), (Y, "y")];
    match c.layout {
        ChannelLayout::Bcn => c.shape.cut(NAME, step, (rows, &channels(rows)), &slots, BASE, caps),
        ChannelLayout::Bnc => c.shape.cut(NAME, step, (c.shape.channels, "one batch entry"), &slots, BASE, caps),
    }
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.shape.dtype)?;
    check_indices(NAME, &c.slots())?;
    c.shape.check_length(NAME)?;
    let made = |variant: String, steps| Ok(Program::new(NAME, variant + &c.mode.told(), c.slots(), vec![], steps));
    let keep = c.state_slot().is_some();
    if keep && c.shape.length == 1 && c.mode.sequences.is_none() {
        let one = Config { layout: ChannelLayout::Bcn, ..c.clone() };
        return made("one token".into(), cut(&one, decode(&one), DECODED, caps)?);
    }
    let tiles = Tiles::new(c);
    let mut steps = cut(c, output(&tiles), tiles.units, caps)?;
    if keep {
        let (lanes, units) = state_tile(c, caps);
        steps.extend(cut(c, state(c, lanes, units), units, caps)?);
    }
    let access = if tiles.wide() { ", four elements at once" } else { "" };
    let tokens = tiles.strips * tiles.passes * STRIP;
    made(format!("tiles of {tokens} tokens of {}{access}", tiles.block()), steps)
}

fn named(c: &Config) -> Vec<Named> {
    let slots = c.slots();
    slots.iter().enumerate().map(|(at, slot)| (slot.name, Operand::Slot(at))).collect()
}

/// The override that says the order of the axes.
fn channels_last(c: &Config) -> (&'static str, u32) {
    ("CHANNELS_LAST", (c.layout == ChannelLayout::Bnc).into())
}

/// The overrides that say what follows the sum.
fn ends(c: &Config) -> [(&'static str, u32); 2] {
    [("BIASED", c.bias.into()), ("SILU", (c.activation == Activation::Silu).into())]
}

/// The first of each four inputs that a strip loads, counted from its own first token.
fn loads(c: &Config) -> Vec<i64> {
    let (left, width) = (c.left() as i64, c.width as i64);
    if c.dilation == 1 {
        let lead = (4 - left % 4) % 4;
        return (0..2 + (lead + width - 1 + 3) / 4).map(|at| 4 * at - left - lead).collect();
    }
    let of = |w: i64| {
        let offset = w * c.dilation as i64 - left;
        let shift = offset.rem_euclid(4);
        (0..2 + i64::from(shift > 0)).map(move |at| offset - shift + 4 * at)
    };
    (0..width).flat_map(of).collect()
}

/// Elements of the state that the strips of a row load.
fn remembered(c: &Config, strips: usize) -> f64 {
    let (step, all, span) = (STRIP as i64, strips as i64, c.span() as i64);
    let of = |first: i64| {
        let before = ((-first).max(0) as u64).div_ceil(STRIP as u64) as i64;
        let fours = before.min(all);
        // Elements in front of the state are no elements of it.
        let none: i64 = (0..fours).map(|strip| (-span - first - step * strip).clamp(0, 4)).take_while(|n| *n > 0).sum();
        4 * fours - none
    };
    loads(c).into_iter().map(of).sum::<i64>() as f64
}

/// Bytes that a strip loads to find the sequences of its tokens, at most.
fn searched(c: &Config) -> f64 {
    let halvings = |sequences: usize| f64::from(usize::BITS - (sequences - 1).leading_zeros());
    c.mode.sequences.map_or(0.0, |sequences| STRIP as f64 * (halvings(sequences) + 2.0) * 4.0)
}

fn output(tiles: &Tiles<'_>) -> Step {
    let c = tiles.config;
    let (packed, keep, near) = (c.mode.sequences.is_some(), c.state_slot().is_some(), c.dilation == 1);
    let mut consts = vec![
        ("WIDTH", c.width as u32),
        ("STRIPS", tiles.strips as u32),
        ("UNITS", tiles.units as u32),
        ("PASSES", tiles.passes as u32),
    ];
    consts.extend(near.then_some(("LEFT", c.left() as u32)));
    let [first, second] = ends(c);
    let access = match (tiles.wide(), tiles.each) {
        (true, 4) => [TOKENS, FOUR_CHANNELS, WIDE_CHANNELS],
        (true, _) => [TOKENS, ONE_CHANNEL, WIDE_TOKENS],
        (false, _) => [TOKENS, ONE_CHANNEL, NARROW],
    };
    let history: &[Fragment] = match (keep, packed) {
        (false, _) => &[HISTORY_NONE],
        (true, false) => &[HISTORY, HISTORY_WHOLE],
        (true, true) => &[HISTORY, HISTORY_PACKED],
    };
    let spans: &[Fragment] = if packed { &[EXTENT_PACKED, PACKED_TOKENS, SPANS_PACKED] } else { &[SPANS_WHOLE] };
    let spec = Variant::new(c.shape.dtype, consts, vec![channels_last(c), first, second])
        .with(&access)
        .with(spans)
        .with(history)
        .with(&[if near { TAPS_NEAR } else { TAPS_APART }]);
    let params = tiles.params();
    let (rows, strips) = (c.shape.rows() as f64, c.shape.length.div_ceil(STRIP));
    let inputs = rows * strips as f64 * loads(c).len() as f64 * 4.0;
    let taps = rows * tiles.tiles() as f64 * (c.width + usize::from(c.bias)) as f64;
    let state = match (keep, packed) {
        (false, _) => 0.0,
        (true, false) => rows * remembered(c, strips),
        // Every token may be among the first ones of its sequence.
        (true, true) => c.shape.elements().min(window(c)) * c.width as f64,
    };
    let size = c.shape.dtype.size() as f64;
    let searched = rows / tiles.each as f64 * strips as f64 * searched(c);
    let cost = Cost {
        bytes_read: inputs * size + (taps + state) * 4.0 + searched,
        bytes_written: c.shape.elements() * size,
        ..essential(c)
    };
    let groups = groups(c, &params, tiles.tiles());
    Step::new(&OUTPUT, spec, &params, &named(c), groups, cost)
}

/// Invocations per row, and rows per workgroup, of the kernel that writes the state. A device with small bindings takes fewer
/// rows, which one of them holds.
fn state_tile(c: &Config, caps: &Caps) -> (usize, usize) {
    let lanes = c.span().next_power_of_two().min(STATE_LANES);
    let limit = caps.limits.max_storage_buffer_binding_size;
    let most = limit / 2 / (c.shape.length * c.shape.dtype.size()) as u64;
    (lanes, (STATE_LANES / lanes).min(1 << most.max(1).ilog2().min(6)))
}

fn state(c: &Config, lanes: usize, units: usize) -> Step {
    let consts = vec![("LANES", lanes as u32), ("UNITS", units as u32)];
    let extent = if c.mode.sequences.is_some() { EXTENT_PACKED } else { EXTENT_WHOLE };
    let spec = Variant::new(c.shape.dtype, consts, vec![channels_last(c)]).with(&[extent]);
    let params = params(c, 1, units, 1);
    let sequences = c.mode.sequences.unwrap_or(1);
    let groups = groups(c, &params, sequences);
    let (size, length) = (c.shape.dtype.size() as f64, c.shape.length.min(c.span()) as f64);
    // Packed sequences may have no tokens: then the whole state comes from the state before.
    let read = match c.mode.sequences {
        None => c.shape.rows() as f64 * (length * size + (c.span() as f64 - length) * 4.0),
        Some(_) => window(c) * 4.0 + groups as f64 * (lanes * units) as f64 * 8.0,
    };
    let cost = Cost { bytes_read: read, bytes_written: window(c) * 4.0, ..Cost::default() };
    Step::new(&STATE, spec, &params, &named(c), groups, cost)
}

fn decode(c: &Config) -> Step {
    let spec = Variant::new(c.shape.dtype, vec![("WIDTH", c.width as u32)], ends(c).to_vec());
    let params = params(c, 1, DECODED, 1);
    let groups = groups(c, &params, 1);
    let (rows, size) = (c.shape.rows() as f64, c.shape.dtype.size() as f64);
    let taps = rows * (c.width + usize::from(c.bias)) as f64;
    let cost = Cost {
        bytes_read: rows * size + (taps + window(c)) * 4.0,
        bytes_written: rows * size + window(c) * 4.0,
        ..essential(c)
    };
    Step::new(&DECODE, spec, &params, &named(c), groups, cost)
}
