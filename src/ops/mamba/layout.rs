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

use super::{Config, NAME};
use crate::cores::segments::segments;
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{
    self, Cost, Named, Operand, Program, Scratch, Share, Step, Units, check_indices, check_workspace,
};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::tensor::DType;

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
        base: u32,
        base_b: u32,
    }
}

const TYPES: Fragment = fragment!("mamba/types.wgsl");
const WALK: Fragment = fragment!("mamba/walk.wgsl");
const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");

const PROOF: &str =
    "channels, states and tokens are guarded by uniforms, arrays sized by the consts that end the loops";

static SEGMENT: Kernel = Kernel::new(
    "mamba_segment",
    &[TYPES, EXPONENTIAL, ACTIVATIONS, WALK, fragment!("mamba/segment.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

static SCAN: Kernel = Kernel::new(
    "mamba_scan",
    &[TYPES, EXPONENTIAL, fragment!("mamba/scan.wgsl")],
    Params::UNIFORM,
    Some("no array; one element of a state an invocation, guarded by its size; loops end at uniforms"),
);

static OUTPUT: Kernel = Kernel::new(
    "mamba_output",
    &[TYPES, EXPONENTIAL, ACTIVATIONS, WALK, fragment!("mamba/output.wgsl")],
    Params::UNIFORM,
    Some(PROOF),
);

/// How one workgroup stores the states of its channels, and how many tokens it processes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    /// Channels per workgroup.
    pub channels: usize,
    /// Invocations that the states of a channel are split over.
    pub lanes: usize,
    /// States per invocation, in groups of four.
    pub rows4: usize,
    /// Tokens in workgroup memory at a time.
    pub tile: usize,
}

impl Tiles {
    /// Chooses tiles for `states` states per channel and `channels` channels per group.
    pub(super) fn new(states: usize, channels: usize) -> Self {
        let fours = states.div_ceil(4).next_power_of_two();
        let rows4 = fours.min(4);
        let lanes = fours / rows4;
        let (most, tile) = match lanes {
            1 => (64, 16),
            2 => (64, 8),
            4 => (32, 8),
            8 => (16, 8),
            _ => (16, 4),
        };
        Self { channels: channels.next_power_of_two().clamp(8, most), lanes, rows4, tile }
    }

    /// Number of states per channel that there is room for.
    pub(super) fn states(&self) -> usize {
        4 * self.lanes * self.rows4
    }

    /// Bytes of workgroup memory of the output kernel.
    #[cfg(test)]
    pub(super) fn workgroup_bytes(&self) -> usize {
        let tokens = self.channels * (self.tile + 1) * (2 + self.lanes);
        4 * (tokens + 2 * self.tile * self.states() + 2 * self.channels)
    }

    fn consts(&self) -> Vec<(&'static str, u32)> {
        vec![
            ("CHANNELS", self.channels as u32),
            ("LANES", self.lanes as u32),
            ("ROWS4", self.rows4 as u32),
            ("TILE", self.tile as u32),
        ]
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

// Indices of the slots in `Config::slots`.
const X: usize = 0;
const DT: usize = 1;
const B: usize = 2;
const C: usize = 3;
const WEIGHTS: Operand = Operand::Slot(4);
const Y: usize = 5;
const Z: usize = 6;

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let (elements, size) = (c.shape.elements(), c.shape.dtype.size() as f64);
    let along = (c.shape.batch * c.group_count() * c.states) as f64 * c.shape.length as f64;
    let weights: usize = c.weights_slot().parts.iter().map(|part| part.shape.count()).sum();
    let state = if c.mode.carry { (c.shape.rows() * c.states) as f64 * 4.0 } else { 0.0 };
    let states = elements * c.states as f64;
    Cost {
        flops: 6.0 * states,
        exps: states + elements * f64::from(u8::from(c.softplus) + u8::from(c.z)),
        bytes_read: ((2.0 + f64::from(u8::from(c.z))) * elements + 2.0 * along) * size + weights as f64 * 4.0 + state,
        bytes_written: elements * size + state,
    }
}

/// Chooses how to process the sequence.
pub(super) fn passes(c: &Config, caps: &Caps) -> Passes {
    if let Some(segment) = c.mode.segment {
        return Passes::ReduceThenScan(segment.min(c.shape.length));
    }
    let dispatches = Dispatches::new(c);
    let groups = dispatches.groups(1);
    if c.mode.decode || 2 * groups > caps.full_groups {
        return Passes::Sequential;
    }
    // The longest segment for which one dispatch that fills the device stays within the work limit of a dispatch.
    let token = dispatches.tiles.channels as f64 * dispatches.tiles.states() as f64 * 22.0;
    let longest = (caps.dispatch_flops / (caps.full_groups as f64 * token)) as usize;
    // The state of a segment is written, read and written by the scan, which also reads its steps and rates, and read
    // again. A token moves six values.
    let traffic = [24 * c.states, 6 * c.shape.dtype.size()];
    let wanted = caps.full_groups.div_ceil(groups) as usize;
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
    Dispatches::new(c).build(passes(c, caps), caps)
}

struct Dispatches<'a> {
    c: &'a Config,
    tiles: Tiles,
    /// Number of batch entries times groups.
    units: usize,
    /// Number of tiles of channels per group.
    count: usize,
}

impl<'a> Dispatches<'a> {
    fn new(c: &'a Config) -> Self {
        let channels = c.shape.channels / c.group_count();
        let tiles = Tiles::new(c.states, channels);
        Self { c, tiles, units: c.shape.batch * c.group_count(), count: channels.div_ceil(tiles.channels) }
    }

    fn groups(&self, segments: usize) -> u64 {
        self.units as u64 * segments as u64 * self.count as u64
    }

    fn build(&self, passes: Passes, caps: &Caps) -> Result<Program, Error> {
        let c = self.c;
        let tile = format!(
            "{} states of {} channels a workgroup, {} tokens at a time",
            self.tiles.states(),
            self.tiles.channels,
            self.tiles.tile
        );
        // If there is no state, an empty buffer is bound instead. Its index comes after the buffers of the passes.
        let none = |index| if c.mode.carry { Operand::Slot(c.slots().len() - 1) } else { Operand::Workspace(index) };
        let (mut workspace, steps, variant) = match passes {
            Passes::Sequential => {
                let step = self.output(c.shape.length, 1, none(0), c.mode.carry);
                let variant = if c.mode.decode { "one token".into() } else { format!("one pass, {tile}") };
                (vec![], vec![step], variant)
            }
            Passes::ReduceThenScan(segment) => {
                let segments = c.shape.length.div_ceil(segment);
                let floats = |each: usize| (c.shape.rows() as u64).saturating_mul(segments as u64 * each as u64) * 4;
                let workspace = vec![
                    Scratch { name: "segment states", bytes: floats(c.states) },
                    Scratch { name: "segment steps", bytes: floats(1) },
                ];
                let steps = vec![
                    self.segment(segment, segments),
                    self.scan(segments, none(2)),
                    self.output(segment, segments, Operand::Workspace(0), true),
                ];
                (workspace, steps, format!("two passes, segments of {segment}, {tile}"))
            }
        };
        if !c.mode.carry {
            workspace.push(Scratch { name: "no state", bytes: 16 });
        }
        check_workspace(NAME, &workspace)?;
        let mut pieces = Vec::new();
        for step in steps {
            pieces.extend(self.cut(step, caps)?);
        }
        Ok(Program::new(NAME, variant, c.slots(), workspace, pieces))
    }

    /// Splits a step if a binding cannot hold the tensors along the sequence: by group, or by tile of channels if there
    /// is only one group.
    fn cut(&self, step: Step, caps: &Caps) -> Result<Vec<Step>, Error> {
        let s = &self.c.shape;
        let (base, base_b) = (offset_of!(Params, base), offset_of!(Params, base_b));
        let mut wide = vec![(X, "x"), (DT, "dt"), (Y, "y")];
        wide.extend(self.c.z.then_some((Z, "z")));
        if self.units == 1 {
            let tile = (self.tiles.channels, format!("{} channels", self.tiles.channels));
            return s.cut(NAME, step, (tile.0, &tile.1), &wide, base, caps);
        }
        let channels = (s.channels / self.c.group_count()) as u64 * s.length as u64;
        let states = self.c.states as u64 * s.length as u64;
        let wide = wide.into_iter().map(|(slot, name)| (slot, name, channels, base));
        let shares: Vec<_> = wide
            .chain([(B, "b", states, base_b), (C, "c", states, base_b)])
            .filter_map(|(slot, name, elements, base)| {
                let operand = step.operands.iter().position(|operand| *operand == Operand::Slot(slot))?;
                Some(Share { operand, name, size: s.dtype.size() as u64, elements, base })
            })
            .collect();
        program::cut(NAME, step, &Units::whole(self.units as u64, "one group"), &shares, caps)
    }

    fn params(&self, segment: usize, segments: usize, stored: usize) -> Params {
        let (c, weights) = (self.c, self.c.weights_slot());
        let offset = |name: &str| weights.parts.iter().find(|part| part.name == name).map_or(0, |part| part.offset);
        Params {
            length: c.shape.length as u32,
            channels: c.shape.channels as u32,
            groups: c.group_count() as u32,
            states: c.states as u32,
            tiles: self.count as u32,
            segment: segment as u32,
            segments: segments as u32,
            stored: stored as u32,
            dt_bias: offset("dt_bias") as u32,
            d: offset("d") as u32,
            ..Params::default()
        }
    }

    fn step(&self, kernel: &'static Kernel, spec: Variant, params: Params, operands: &[Named], cost: Cost) -> Step {
        Step::new(kernel, spec, &params, operands, 0, cost)
    }

    /// Work of one pass over all tokens, including channels and states that only pad a tile, with its reads of x, dt
    /// and b.
    fn walked(&self, segments: usize, flops: f64) -> Cost {
        let (c, size) = (self.c, self.c.shape.dtype.size() as f64);
        let tokens = c.shape.length as f64 * (self.units * self.count) as f64;
        let states = tokens * (self.tiles.channels * self.tiles.states()) as f64;
        let per_channel = c.states + usize::from(c.dt_bias);
        Cost {
            flops: flops * states,
            exps: states + if c.softplus { c.shape.elements() } else { 0.0 },
            bytes_read: (2.0 * c.shape.elements() + tokens * c.states as f64) * size
                + (c.shape.rows() * segments * per_channel) as f64 * 4.0,
            bytes_written: 0.0,
        }
    }

    fn overrides(&self) -> Vec<(&'static str, u32)> {
        let c = self.c;
        vec![("A_LOG", c.a_log.into()), ("SOFTPLUS", c.softplus.into()), ("BIASED", c.dt_bias.into())]
    }

    fn spec(&self, overrides: Vec<(&'static str, u32)>) -> Variant {
        Variant::new(self.c.shape.dtype, self.tiles.consts(), overrides)
    }

    fn segment(&self, segment: usize, segments: usize) -> Step {
        let written = (self.c.shape.rows() * segments * (self.c.states + 1)) as f64 * 4.0;
        let cost = Cost { bytes_written: written, ..self.walked(segments, 4.0) };
        let operands = [
            ("x", Operand::Slot(X)),
            ("dt", Operand::Slot(DT)),
            ("b", Operand::Slot(B)),
            ("weights", WEIGHTS),
            ("segments", Operand::Workspace(0)),
            ("steps", Operand::Workspace(1)),
        ];
        let params = self.params(segment, segments, segments);
        let step = self.step(&SEGMENT, self.spec(self.overrides()), params, &operands, cost);
        Step { groups: self.groups(segments), ..step }
    }

    fn scan(&self, segments: usize, state: Operand) -> Step {
        let c = self.c;
        let size = c.shape.channels as u64 * c.states as u64;
        let all = c.shape.batch as f64 * size as f64;
        let carried = if c.mode.carry { all * 4.0 } else { 0.0 };
        let cost = Cost {
            flops: 3.0 * all * segments as f64,
            exps: all * segments as f64,
            bytes_read: all * (1.0 + 2.0 * segments as f64) * 4.0 + carried,
            bytes_written: all * segments as f64 * 4.0 + carried,
        };
        let overrides = vec![("A_LOG", c.a_log.into()), ("CARRY", c.mode.carry.into())];
        let spec = Variant::new(DType::F32, vec![], overrides);
        let operands = [
            ("weights", WEIGHTS),
            ("steps", Operand::Workspace(1)),
            ("segments", Operand::Workspace(0)),
            ("state", state),
        ];
        let step = self.step(&SCAN, spec, self.params(0, segments, segments), &operands, cost);
        Step { groups: c.shape.batch as u64 * size.div_ceil(64), ..step }
    }

    /// The pass that computes the outputs. Each segment starts from its state in `states` if `init`, otherwise from
    /// zeros.
    fn output(&self, segment: usize, segments: usize, states: Operand, init: bool) -> Step {
        let c = self.c;
        let store = segments == 1 && c.mode.carry && matches!(states, Operand::Slot(_));
        let (rows, elements, size) = (c.shape.rows() as f64, c.shape.elements(), c.shape.dtype.size() as f64);
        let kept = rows * c.states as f64 * 4.0;
        let along = c.shape.length as f64 * (self.units * self.count * c.states) as f64 * size;
        let mut cost = self.walked(segments, 6.0);
        cost.bytes_read += along + if c.d { rows * segments as f64 * 4.0 } else { 0.0 };
        cost.bytes_read += if init { kept * segments as f64 } else { 0.0 };
        cost.bytes_written += elements * size + if store { kept } else { 0.0 };
        if c.z {
            cost.bytes_read += elements * size;
            cost.exps += elements;
        }
        let mut overrides = self.overrides();
        overrides.extend([("SKIP", c.d.into()), ("GATED", c.z.into()), ("INIT", init.into()), ("STORE", store.into())]);
        // If z is absent, the weights are bound instead and not read.
        let z = if c.z { Operand::Slot(Z) } else { WEIGHTS };
        let operands = [
            ("x", Operand::Slot(X)),
            ("dt", Operand::Slot(DT)),
            ("b", Operand::Slot(B)),
            ("weights", WEIGHTS),
            ("c", Operand::Slot(C)),
            ("z", z),
            ("states", states),
            ("y", Operand::Slot(Y)),
        ];
        let step = self.step(&OUTPUT, self.spec(overrides), self.params(segment, segments, segments), &operands, cost);
        Step { groups: self.groups(segments), ..step }
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

    #[test]
    fn tiles_fit_a_portable_workgroup_at_every_number_of_states() {
        for states in 1..=256 {
            for channels in [1, 8, 9, 64, 1000] {
                let tiles = Tiles::new(states, channels);
                assert!(tiles.states() >= states && tiles.states() < 2 * states.max(4), "{tiles:?}");
                assert!(tiles.channels * tiles.lanes <= 256 && tiles.workgroup_bytes() <= 16384, "{tiles:?}");
            }
        }
    }

    /// The shape of the roofline: 1024 channels, 16 states, 65536 tokens.
    #[test]
    fn a_long_sequence_takes_little_workspace_and_two_passes_move_six_tensors() {
        let c = full(Channels::new(1, 1024, 65536), 16);
        let Passes::ReduceThenScan(segment) = passes(&c, &Caps::roomy()) else { panic!("one pass") };
        let program = c.program(&Caps::roomy()).unwrap();
        let tensor = c.shape.elements() * 4.0;
        assert!(program.workspace_bytes() as f64 <= 0.02 * tensor, "{segment}: {}", program.workspace_bytes());
        // Each of 16 tiles of channels reads b twice and c once.
        let along = 3.0 * 16.0 * 16.0 * 65536.0 * 4.0;
        let bytes = program.cost().bytes();
        assert!(bytes >= 6.0 * tensor + along && bytes <= 1.05 * (6.0 * tensor + along), "{bytes}");
        let decode = Config { shape: c.shape.length(1), mode: c.mode.carry().decode(), ..c.clone() }
            .program(&Caps::roomy())
            .unwrap();
        assert_eq!((decode.steps().len(), decode.workspace_bytes()), (1, 0));
        // There are enough channels to fill the device, so there is one pass.
        let many = Config { shape: Channels::new(64, 1024, 4096), ..c };
        assert_eq!(passes(&many, &Caps::roomy()), Passes::Sequential);
    }
}
