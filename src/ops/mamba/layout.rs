//! Builds the GPU program of a configuration: tiles, uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! A workgroup holds the states of some channels of a group, with up to 16 states of a channel per invocation, and
//! processes one segment of the tokens. If the channels fill the device, there is one segment and one pass over the
//! tensors, and the state is updated in place. Otherwise there are two passes: the first reads x, dt and b to compute
//! the states of segments, a scan combines these, and the second reads all tensors to compute the output. The two
//! passes move 6 tensors of the size of x instead of 4 (with z). Every tile of channels reads b and c.
//!
//! Workspace of two passes: `S + 1` floats per channel and segment. The plan chooses segments so long that the traffic
//! of these stays below about a tenth of that of x, dt, z and y; if this would leave most of the device idle, below a
//! half.

use std::mem::offset_of;

use super::tiles::Tiles;
use super::{Config, NAME};
use crate::cores::lanes::lanes;
use crate::cores::packed::{self, BORDERS, BORDERS_PROOF, PACKED};
use crate::cores::recurrence::kernels;
use crate::cores::recurrence::runs::{Rounding, Run, Runs};
use crate::cores::rows::ROWS;
use crate::cores::segments::segments;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{
    self, Cost, Named, Operand, Program, Scratch, Share, Step, Units, check_indices, check_workspace,
};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::mode::Mode;
use crate::operator::qkv::{BASE, Qkv};
use crate::tensor::{Access, DType, Slot};

params! {
    /// Must match `struct Params` in `shaders/mamba/types.wgsl`.
    struct Params {
        grid: Grid,
        length: u32,
        channels: u32,
        groups: u32,
        states: u32,
        tiles: u32,
        segment: u32,
        segments: u32,
        stored: u32,
        dt_bias: u32,
        d: u32,
        b: u32,
        c: u32,
        base: u32,
        base_b: u32,
        sequences: u32,
        kept: u32,
        dt_offset: f32,
        dt_min: f32,
        dt_max: f32,
        raise: f32,
        lower: f32,
        pad: u32,
        pads: [u32; 2],
    }
}

const TYPES: Fragment = fragment!("mamba/types.wgsl");
const TOKENS: Fragment = fragment!("mamba/tokens.wgsl");
const WALK: Fragment = fragment!("mamba/walk.wgsl");
const SEGMENTS: Fragment = fragment!("mamba/segments.wgsl");
const SEGMENTS_PACKED: Fragment = fragment!("mamba/segments_packed.wgsl");
const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");
/// Decay factors: by the device's exp2 where their errors are forgotten, and by polynomials alone, which software adapters
/// compute faster.
const DECAYS_DEVICE: Fragment = fragment!("lib/decays_device.wgsl");
const DECAYS_SOFTWARE: Fragment = fragment!("lib/decays_software.wgsl");
/// f32 numbers of this size have no fraction.
const ROUND_TO_WHOLE: f32 = 12_582_912.0;

/// Steps from dt, and steps that the first pass kept.
const DT_GIVEN: Fragment = fragment!("mamba/dt_given.wgsl");
const DT_KEPT: Fragment = fragment!("mamba/dt_kept.wgsl");
const KEEP: Fragment = fragment!("mamba/keep_steps.wgsl");
const KEEP_NONE: Fragment = fragment!("mamba/keep_none.wgsl");

/// Loads and stores by four tokens, and by single ones: of x, dt, b, c, z and y.
const WIDE: [Fragment; 6] = [
    fragment!("mamba/wide_x.wgsl"),
    fragment!("mamba/wide_dt.wgsl"),
    fragment!("mamba/wide_b.wgsl"),
    fragment!("mamba/wide_c.wgsl"),
    fragment!("mamba/wide_z.wgsl"),
    fragment!("mamba/wide_y.wgsl"),
];
const NARROW: [Fragment; 6] = [
    fragment!("mamba/narrow_x.wgsl"),
    fragment!("mamba/narrow_dt.wgsl"),
    fragment!("mamba/narrow_b.wgsl"),
    fragment!("mamba/narrow_c.wgsl"),
    fragment!("mamba/narrow_z.wgsl"),
    fragment!("mamba/narrow_y.wgsl"),
];

/// The tensors of these.
const X: usize = 0;
const DT: usize = 1;
const B: usize = 2;
const C: usize = 3;
const Z: usize = 4;
const Y: usize = 5;

const PROOF: &str = "channels, states and tokens are guarded by uniforms or clamped to them, arrays sized by the consts that end \
                     the loops";

static SEGMENT: Kernel = Kernel::new(
    "mamba_segment",
    &[TYPES, EXPONENTIAL, ACTIVATIONS, ROWS, TOKENS, WALK, fragment!("mamba/segment.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

static SCAN: Kernel = Kernel::new(
    "mamba_scan",
    &[TYPES, EXPONENTIAL, fragment!("mamba/scan.wgsl")],
    Params::UNIFORM,
    Some(
        "one element of a state an invocation, guarded by its size; loops end at consts, uniforms or segments of a sequence",
    ),
);

static OUTPUT: Kernel = Kernel::new(
    "mamba_output",
    &[TYPES, EXPONENTIAL, ACTIVATIONS, ROWS, TOKENS, WALK, fragment!("mamba/output.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

static BORDER_COPY: Kernel = Kernel {
    entry: "borders",
    ..Kernel::new(
        "mamba_borders",
        &[TYPES, EXPONENTIAL, fragment!("mamba/borders.wgsl"), BORDERS],
        Params::UNIFORM,
        Some(BORDERS_PROOF),
    )
};

static ROUND: Kernel = kernels::round("mamba_round");

/// Where the tokens of segments are, in one sequence per batch entry or in packed ones: the fragments and their override.
fn spans(mode: &Mode, whole: bool) -> (&'static [Fragment], Option<(&'static str, u32)>) {
    match mode.sequences {
        Some(_) => (&[PACKED, SEGMENTS_PACKED], Some(("WHOLE", whole.into()))),
        None => (&[SEGMENTS], None),
    }
}

/// How the sequence is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passes {
    /// A workgroup processes all tokens of its channels in order.
    Sequential,
    /// Reduce-then-scan, with this number of tokens per segment: computes the state of each segment, scans these
    /// states, then processes each segment from the state it starts with.
    ReduceThenScan(usize),
}

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let elements = c.shape.elements();
    let bytes = |slot: &Slot| slot.checked_bytes().unwrap_or(u64::MAX) as f64;
    let slots = c.slots();
    let of = |accesses: [Access; 2]| slots.iter().filter(|slot| accesses.contains(&slot.access)).map(bytes).sum();
    let states = elements * c.states as f64;
    Cost {
        flops: 6.0 * states,
        exps: states + elements * f64::from(u8::from(c.steps.softplus) + u8::from(c.z)),
        bytes_read: of([Access::Read, Access::Update]),
        bytes_written: of([Access::Write, Access::Update]),
    }
}

/// Chooses how to process the sequence.
pub(super) fn passes(c: &Config, caps: &Caps) -> Passes {
    if let Some(segment) = c.mode.segment {
        return Passes::ReduceThenScan(segment.min(c.shape.length));
    }
    let dispatches = Dispatches::new(c, caps);
    let groups = dispatches.groups(c.mode.states(1));
    // One pass computes each exponential once. It suffices to give every core some work: the states of a channel are split
    // over invocations, which have independent work to fill the latency of each other's.
    let waves = groups * (dispatches.tiles.invocations() as u64).div_ceil(64);
    if c.mode.decode || 8 * waves >= caps.full_groups {
        return Passes::Sequential;
    }
    // The longest segment for which one dispatch that fills the device stays within the work limit of a dispatch.
    let token = dispatches.tiles.channels as f64 * dispatches.tiles.states() as f64 * 22.0;
    let longest = (caps.dispatch_flops / (caps.full_groups as f64 * token)) as usize;
    // The state of a segment is written, read and written by the scan, which also reads its steps and rates, and read
    // again. A token moves six values.
    let traffic = [24 * c.states, 6 * c.shape.dtype.size()];
    let wanted = caps.full_groups.div_ceil(waves) as usize;
    let segments = segments(c.shape.length, traffic[0], traffic[1], wanted, longest);
    if segments == 1 {
        return Passes::Sequential;
    }
    Passes::ReduceThenScan(c.shape.length.div_ceil(segments).next_multiple_of(dispatches.tiles.tile))
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.shape.dtype)?;
    check_indices(NAME, &c.slots())?;
    check_indices(NAME, &[c.state_slot()])?;
    c.shape.check_length(NAME)?;
    Dispatches::new(c, caps).build(passes(c, caps))
}

/// Scratch buffers, in order.
const STATES: Operand = Operand::Workspace(0);
const STEPS: Operand = Operand::Workspace(1);

struct Dispatches<'a> {
    c: &'a Config,
    caps: &'a Caps,
    tiles: Tiles,
    /// Number of batch entries times groups.
    units: usize,
    /// Number of tiles of channels per group.
    count: usize,
}

/// One of the runs over the tokens, in this many segments.
#[derive(Clone, Copy)]
struct Walk {
    run: Run,
    /// Tokens of a segment, and segments of a batch entry or of all packed sequences.
    segment: usize,
    segments: usize,
    /// Whether each packed sequence is one segment.
    whole: bool,
    /// The buffer of the steps that the first pass keeps.
    kept: Option<Operand>,
    /// The buffer of the outputs: y, or sums of two runs.
    outputs: Operand,
}

/// What a pass is composed of.
struct Pass {
    /// The tensors whose loads or stores it takes from [`WIDE`] or [`NARROW`].
    wanted: Vec<usize>,
    fragments: Vec<Fragment>,
    overrides: Vec<(&'static str, u32)>,
    operands: Vec<Named>,
}

impl<'a> Dispatches<'a> {
    fn new(c: &'a Config, caps: &'a Caps) -> Self {
        let channels = c.shape.channels / c.group_count();
        let tiles = Tiles::new(c.states, channels, c.mode.decode);
        Self { c, caps, tiles, units: c.shape.batch * c.group_count(), count: channels.div_ceil(tiles.channels) }
    }

    fn groups(&self, segments: usize) -> u64 {
        self.units as u64 * segments as u64 * self.count as u64
    }

    fn slot(&self, name: &str) -> Option<Operand> {
        self.c.slots().iter().position(|slot| slot.name == name).map(Operand::Slot)
    }

    /// The operand of a tensor that may be absent. Then the weights are bound instead and not read.
    fn or_weights(&self, name: &'static str) -> Named {
        (name, self.slot(name).or_else(|| self.slot("weights")).unwrap_or(STATES))
    }

    fn build(&self, passes: Passes) -> Result<Program, Error> {
        let (c, mode) = (self.c, &self.c.mode);
        let tile = format!(
            "{} states of {} channels a workgroup, {} tokens at a time",
            self.tiles.states(),
            self.tiles.channels,
            self.tiles.tile
        );
        // The outputs as rows of one number a token.
        let s = &c.shape;
        let qkv = Qkv::new().batch(s.batch).heads(s.channels).len(s.length).dim(1).dim_v(1).dtype(s.dtype);
        let runs = Runs::new(&qkv, mode);
        let (segment, whole) = match passes {
            Passes::Sequential => (c.shape.length, true),
            Passes::ReduceThenScan(segment) => (segment, false),
        };
        let segments = match (whole, mode.sequences) {
            (true, Some(sequences)) => sequences,
            _ => packed::segments(mode, c.shape.length, segment),
        };
        // A state that is processed in one pass is where the caller has it, unless borders must lie behind it.
        let stored = !whole || mode.sequences.is_some();
        let floats = |each: usize| (c.shape.rows() as u64).saturating_mul(segments as u64 * each as u64) * 4;
        let mut workspace = Vec::new();
        if stored {
            let bytes = floats(c.states) + mode.border_bytes() as u64;
            workspace.push(Scratch { name: "segment states", bytes });
            workspace.push(Scratch { name: "segment steps", bytes: if whole { 16 } else { floats(1) } });
        }
        if !mode.carry {
            workspace.push(Scratch { name: "no state", bytes: 16 });
        }
        let state = self.slot("state").unwrap_or(Operand::Workspace(workspace.len().saturating_sub(1)));
        // Two segments that share four tokens would both write their steps.
        let kept_bytes = (c.shape.rows() * c.shape.length.next_multiple_of(4) * 4) as u64;
        let keeps = !whole && mode.sequences.is_none() && segment.is_multiple_of(4);
        let keeps = keeps && kept_bytes <= self.caps.largest_binding();
        let kept = keeps.then_some(Operand::Workspace(workspace.len()));
        workspace.extend(keeps.then_some(Scratch { name: "steps", bytes: kept_bytes }));
        let y = self.slot("y").unwrap_or(STATES);
        let outputs = if runs.in_workspace() { Operand::Workspace(workspace.len()) } else { y };
        let mut steps = Vec::new();
        for run in runs.all() {
            let walk = Walk { run, segment, segments, whole, kept, outputs };
            let params = self.params(&walk, stored);
            let named = [("cu_seqlens", self.slot("cu_seqlens").unwrap_or(STATES)), ("states", STATES)];
            steps.extend(packed::borders(&BORDER_COPY, mode, run.backward, &params, &named));
            if whole {
                let copies = stored && mode.carry;
                steps.extend(copies.then(|| self.scan(&walk, params, state, 1)));
                let states = if stored { STATES } else { state };
                steps.push(self.output(&walk, params, states, mode.carry, &runs));
                steps.extend(copies.then(|| self.scan(&walk, params, state, 2)));
            } else {
                steps.push(self.segment(&walk, params));
                steps.push(self.scan(&walk, params, state, 0));
                steps.push(self.output(&walk, params, STATES, true, &runs));
            }
        }
        let mut pieces = Vec::new();
        for step in steps {
            pieces.extend(self.cut(step)?);
        }
        let mut rounds = Vec::new();
        let slot = c.slots().iter().position(|slot| slot.name == "y").unwrap_or(0);
        runs.round(&ROUND, slot, false, &mut rounds, &mut workspace);
        for step in rounds {
            let base = offset_of!(Rounding, o) + BASE;
            pieces.extend(c.shape.cut(NAME, step, (1, "one channel"), &[(slot, "y")], base, self.caps)?);
        }
        check_workspace(NAME, &workspace)?;
        let variant = match passes {
            _ if mode.decode => "one token".into(),
            Passes::Sequential => format!("one pass, {tile}{}", mode.told()),
            Passes::ReduceThenScan(segment) => format!("two passes, segments of {segment}, {tile}{}", mode.told()),
        };
        Ok(Program::new(NAME, variant, c.slots(), workspace, pieces))
    }

    /// Splits a step if a binding cannot hold the tensors along the sequence: by group, or by tile of channels if there
    /// is only one group.
    fn cut(&self, step: Step) -> Result<Vec<Step>, Error> {
        let (s, caps) = (&self.c.shape, self.caps);
        let (base, base_b) = (offset_of!(Params, base), offset_of!(Params, base_b));
        let slots = self.c.slots();
        let named = |name: &'static str| slots.iter().position(|slot| slot.name == name).map(|slot| (slot, name));
        let wide: Vec<_> = ["x", "dt", "y", "z"].into_iter().filter_map(named).collect();
        if self.units == 1 {
            let tile = (self.tiles.channels, format!("{} channels", self.tiles.channels));
            return s.cut(NAME, step, (tile.0, &tile.1), &wide, base, caps);
        }
        let channels = (s.channels / self.c.group_count()) as u64 * s.length as u64;
        let states = self.c.states as u64 * s.length as u64;
        let wide = wide.into_iter().map(|(slot, name)| (slot, name, channels, base));
        let along = ["b", "c"].into_iter().filter_map(named).map(|(slot, name)| (slot, name, states, base_b));
        let shares: Vec<_> = wide
            .chain(along)
            .filter_map(|(slot, name, elements, base)| {
                let operand = step.operands.iter().position(|operand| *operand == Operand::Slot(slot))?;
                Some(Share { operand, name, size: s.dtype.size() as u64, elements, base })
            })
            .collect();
        program::cut(NAME, step, &Units::whole(self.units as u64, "one group"), &shares, caps)
    }

    fn params(&self, walk: &Walk, stored: bool) -> Params {
        let (c, weights) = (self.c, self.c.weights_slot());
        let offset = |name: &str| {
            let part = weights.parts.iter().find(|part| part.name == name);
            part.map_or(0, |part| part.offset) as u32
        };
        let [dt_min, dt_max] = c.steps.limits();
        Params {
            length: c.shape.length as u32,
            channels: c.shape.channels as u32,
            groups: c.group_count() as u32,
            states: c.states as u32,
            tiles: self.count as u32,
            segment: walk.segment as u32,
            segments: walk.segments as u32,
            stored: if stored { walk.segments as u32 } else { 1 },
            dt_bias: offset("dt_bias"),
            d: offset("d"),
            b: offset("b"),
            c: offset("c"),
            sequences: c.mode.sequences.unwrap_or(0) as u32,
            kept: c.shape.length.div_ceil(4) as u32,
            dt_offset: c.steps.offset,
            dt_min,
            dt_max,
            raise: ROUND_TO_WHOLE,
            lower: ROUND_TO_WHOLE,
            ..Params::default()
        }
    }

    /// Work of one pass over all tokens, including channels and states that only pad a tile, with its reads of x, dt or
    /// steps that are kept, and b.
    fn walked(&self, walk: &Walk, flops: f64, from_kept: bool) -> Cost {
        let (c, size) = (self.c, self.c.shape.dtype.size() as f64);
        let tokens = c.shape.length as f64 * (self.units * self.count) as f64;
        let states = tokens * (self.tiles.channels * self.tiles.states()) as f64;
        let b = if c.constant_b { 0.0 } else { tokens * c.states as f64 * size };
        let dt = if from_kept { 4.0 } else { size };
        // Every group of four tokens of a tile loads the bias.
        let bias = if c.dt_bias && !from_kept { self.tiles.quads() } else { 0 };
        let per_channel = c.states * (1 + usize::from(c.constant_b)) + bias;
        let lookups = packed::lookup_bytes(&c.mode, walk.whole) * self.groups(walk.segments) as f64;
        Cost {
            flops: flops * states,
            exps: states + if c.steps.softplus && !from_kept { c.shape.elements() } else { 0.0 },
            bytes_read: (size + dt) * c.shape.elements()
                + b
                + (c.shape.rows() * walk.segments * per_channel) as f64 * 4.0
                + lookups,
            bytes_written: 0.0,
        }
    }

    /// The variant of a pass: by four tokens where the length and the segments are whole groups of four.
    fn spec(&self, walk: &Walk, pass: &Pass) -> Variant {
        let c = self.c;
        let loads = if c.shape.length.is_multiple_of(4) { WIDE } else { NARROW };
        let ends = walk.segments == 1 || walk.segment.is_multiple_of(4);
        let stores = if ends && c.mode.sequences.is_none() { loads } else { NARROW };
        let each = pass.wanted.iter().map(|&wanted| if wanted == Y { stores[wanted] } else { loads[wanted] });
        let mut overrides = vec![
            ("A_LOG", c.a_log.into()),
            ("BACKWARD", walk.run.backward.into()),
            ("CONSTANT_B", c.constant_b.into()),
        ];
        overrides.extend(&pass.overrides);
        let (spans, whole) = spans(&c.mode, walk.whole);
        overrides.extend(whole);
        let lanes = lanes(self.tiles.channels, self.caps);
        let decays = if self.caps.software { DECAYS_SOFTWARE } else { DECAYS_DEVICE };
        Variant::new(c.shape.dtype, self.tiles.consts(), overrides)
            .with(&each.collect::<Vec<_>>())
            .with(&pass.fragments)
            .with(spans)
            .with(&[lanes, decays])
    }

    /// A pass that loads x and b, and steps: computes these, or reads those that are kept.
    fn pass(&self, from_kept: Option<Operand>) -> Pass {
        let c = self.c;
        let operands = vec![self.or_weights("x"), self.or_weights("b"), self.or_weights("weights")];
        match from_kept {
            Some(kept) => Pass {
                wanted: vec![X, B],
                fragments: vec![DT_KEPT],
                overrides: vec![],
                operands: [operands, vec![("kept", kept)]].concat(),
            },
            None => Pass {
                wanted: vec![X, DT, B],
                fragments: vec![DT_GIVEN],
                overrides: vec![
                    ("SOFTPLUS", c.steps.softplus.into()),
                    ("BIASED", c.dt_bias.into()),
                    ("LIMITED", c.steps.limited().into()),
                ],
                operands: [operands, vec![self.or_weights("dt")]].concat(),
            },
        }
    }

    fn segment(&self, walk: &Walk, params: Params) -> Step {
        let rows = self.c.shape.rows();
        let written = (rows * walk.segments * (self.c.states + 1)) as f64 * 4.0;
        // Groups of four are stored whole.
        let kept = walk.kept.map_or(0.0, |_| (rows * self.c.shape.length.next_multiple_of(4)) as f64 * 4.0);
        let cost = Cost { bytes_written: written + kept, ..self.walked(walk, 4.0, false) };
        let mut pass = self.pass(None);
        pass.operands.extend([("states", STATES), ("steps", STEPS)]);
        pass.operands.extend(walk.kept.map(|kept| ("kept", kept)));
        pass.fragments.push(if walk.kept.is_some() { KEEP } else { KEEP_NONE });
        Step::new(&SEGMENT, self.spec(walk, &pass), &params, &pass.operands, self.groups(walk.segments), cost)
    }

    /// The scan over the segments, or a copy of carried states (`MODE` in the shader).
    fn scan(&self, walk: &Walk, params: Params, state: Operand, mode: u32) -> Step {
        let c = self.c;
        let size = c.shape.channels as u64 * c.states as u64;
        let sequences = c.mode.states(c.shape.batch) as u64;
        let all = sequences as f64 * size as f64;
        let each = c.shape.batch as f64 * size as f64 * walk.segments as f64;
        let carried = if c.mode.carry { all * 4.0 } else { 0.0 };
        let lookups = packed::lookup_bytes(&c.mode, true) * all;
        let copied = Cost { bytes_read: all * 4.0 + lookups, bytes_written: all * 4.0, ..Cost::default() };
        let scanned = Cost {
            flops: 3.0 * each,
            exps: each,
            bytes_read: (all + 2.0 * each) * 4.0 + carried + lookups,
            bytes_written: each * 4.0 + carried,
        };
        let (spans, whole) = spans(&c.mode, walk.whole);
        let mut overrides = vec![("A_LOG", c.a_log.into()), ("CARRY", c.mode.carry.into()), ("MODE", mode)];
        overrides.extend(whole);
        let spec = Variant::new(DType::F32, vec![], overrides).with(spans);
        let weights = self.slot("weights").unwrap_or(STATES);
        let operands = [("weights", weights), ("steps", STEPS), ("states", STATES), ("state", state)];
        let cost = if mode == 0 { scanned } else { copied };
        Step::new(&SCAN, spec, &params, &operands, sequences * size.div_ceil(64), cost)
    }

    /// The pass that computes the outputs. Each segment starts from its state in `states` if `init`, otherwise from
    /// zeros.
    fn output(&self, walk: &Walk, params: Params, states: Operand, init: bool, runs: &Runs<'_>) -> Step {
        let c = self.c;
        let store = walk.whole && c.mode.carry;
        let (rows, elements, size) = (c.shape.rows() as f64, c.shape.elements(), c.shape.dtype.size() as f64);
        let kept = rows * (c.states * walk.segments) as f64 * 4.0;
        let along = c.shape.length as f64 * (self.units * self.count * c.states) as f64 * size;
        let mut cost = self.walked(walk, 6.0, walk.kept.is_some());
        // Every group of four tokens of a tile loads the skip.
        cost.bytes_read += if c.d { rows * (walk.segments * self.tiles.quads()) as f64 * 4.0 } else { 0.0 };
        cost.bytes_read += if c.constant_c { kept } else { along };
        cost.bytes_read += if init { kept } else { 0.0 } + walk.run.bytes_added(runs);
        cost.bytes_written += runs.output_bytes() + if store { kept } else { 0.0 };
        if c.z {
            cost.bytes_read += elements * size;
            cost.exps += elements;
        }
        let mut pass = self.pass(walk.kept);
        pass.wanted.extend([C, Z, Y]);
        pass.fragments.extend([KEEP_NONE, runs.outputs()]);
        pass.overrides.extend([
            ("SKIP", c.d.into()),
            ("GATED", c.z.into()),
            ("CONSTANT_C", c.constant_c.into()),
            ("INIT", init.into()),
            ("STORE", store.into()),
            ("ADDED", walk.run.summed.into()),
        ]);
        pass.operands.extend([self.or_weights("c"), self.or_weights("z"), ("states", states), ("y", walk.outputs)]);
        Step::new(&OUTPUT, self.spec(walk, &pass), &params, &pass.operands, self.groups(walk.segments), cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::Operator;
    use crate::operator::channels::Channels;

    /// A configuration with d, z and dt_bias.
    fn full(shape: Channels, states: usize) -> Config {
        Config { d: true, z: true, dt_bias: true, ..Config::new(shape, states) }
    }

    /// The shape of the roofline: 1024 channels, 16 states, 65536 tokens.
    #[test]
    fn a_long_sequence_keeps_its_steps_and_two_passes_move_seven_tensors() {
        let c = full(Channels::new(1, 1024, 65536), 16);
        let Passes::ReduceThenScan(segment) = passes(&c, &Caps::roomy()) else { panic!("one pass") };
        let program = c.program(&Caps::roomy()).unwrap();
        let tensor = c.shape.elements() * 4.0;
        assert!(program.workspace_bytes() as f64 <= 1.02 * tensor, "{segment}: {}", program.workspace_bytes());
        // Each of 32 tiles of channels reads b twice and c once.
        let along = 3.0 * 32.0 * 16.0 * 65536.0 * 4.0;
        let bytes = program.cost().bytes();
        assert!(bytes >= 7.0 * tensor + along && bytes <= 1.05 * (7.0 * tensor + along), "{bytes}");
        let decode = Config { shape: c.shape.length(1), mode: c.mode.carry().decode(), ..c.clone() }
            .program(&Caps::roomy())
            .unwrap();
        assert_eq!((decode.steps().len(), decode.workspace_bytes()), (1, 0));
        // There are enough channels to fill the device, so there is one pass.
        let many = Config { shape: Channels::new(64, 1024, 4096), ..c };
        assert_eq!(passes(&many, &Caps::roomy()), Passes::Sequential);
    }
}
