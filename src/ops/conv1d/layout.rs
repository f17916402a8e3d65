//! Builds the GPU program of a configuration: tiles, uniforms and dispatches. Pure: no wgpu type.
//!
//! A workgroup processes a tile of tokens for some rows (batch, channel): one row if there are many tokens, many rows
//! if there are few. If all tokens are in one tile, the same dispatch also writes the state, otherwise a second
//! dispatch does.

use std::mem::offset_of;

use super::{Activation, Config, NAME};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Scratch, Step, check_indices};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};

params! {
    /// Must match `struct Params` in `shaders/conv1d/types.wgsl`.
    struct Params {
        grid: Grid,
        rows: u32,
        channels: u32,
        length: u32,
        tiles: u32,
        bias: u32,
        base: u32,
        _pad: [u32; 2],
    }
}

const TYPES: Fragment = fragment!("conv1d/types.wgsl");
const EXPONENTIAL: Fragment = fragment!("lib/exponential.wgsl");
const ACTIVATIONS: Fragment = fragment!("lib/activations.wgsl");

static OUTPUT: Kernel = Kernel::new(
    "conv1d_output",
    &[TYPES, EXPONENTIAL, ACTIVATIONS, fragment!("conv1d/output.wgsl")],
    Params::UNIFORM,
    Some("rows and tokens are guarded by uniforms, arrays sized by the consts that end the loops"),
);

static STATE: Kernel = Kernel::new(
    "conv1d_state",
    &[TYPES, fragment!("conv1d/state.wgsl")],
    Params::UNIFORM,
    Some("no array, no loop; a workgroup has an invocation for each element of a row's state"),
);

// Indices of the slots in `Config::slots`.
const X: usize = 0;
const WEIGHTS: Operand = Operand::Slot(1);
const Y: usize = 2;
const BASE: usize = offset_of!(Params, base);

/// Tokens and rows per tile.
fn tile(length: usize) -> (usize, usize) {
    match length {
        ..=1 => (1, 128),
        2..=16 => (16, 64),
        17..=256 => (256, 4),
        _ => (1024, 1),
    }
}

/// Minimum work: each input is read once and each output is written once.
pub(super) fn essential(c: &Config) -> Cost {
    let (elements, size) = (c.shape.elements(), c.shape.dtype.size() as f64);
    let weights: usize = c.weights_slot().parts.iter().map(|part| part.shape.count()).sum();
    let state = if c.mode.carry { window(c) * 4.0 } else { 0.0 };
    Cost {
        flops: 2.0 * c.width as f64 * elements,
        exps: if c.activation == Activation::Silu { elements } else { 0.0 },
        bytes_read: elements * size + weights as f64 * 4.0 + state,
        bytes_written: elements * size + state,
    }
}

/// Number of elements of the state.
fn window(c: &Config) -> f64 {
    c.shape.rows() as f64 * (c.width - 1) as f64
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.shape.dtype)?;
    check_indices(NAME, &c.slots())?;
    c.shape.check_length(NAME)?;
    let (tokens, rows) = tile(c.shape.length);
    let tiles = c.shape.length.div_ceil(tokens);
    let slots = [(X, "x"), (Y, "y")];
    let keep = c.state_slot().is_some();
    let mut steps = c.shape.cut(NAME, output(c), (rows, &blocks(rows)), &slots, BASE, caps)?;
    if keep && tiles > 1 {
        steps.extend(c.shape.cut(NAME, state(c), (1, &blocks(1)), &slots, BASE, caps)?);
    }
    let workspace = if keep { vec![] } else { vec![Scratch { name: "no state", bytes: 16 }] };
    let variant =
        if c.mode.decode { "one token".into() } else { format!("tiles of {tokens} tokens of {}", blocks(rows)) };
    Ok(Program::new(NAME, variant, c.slots(), workspace, steps))
}

fn blocks(rows: usize) -> String {
    if rows == 1 { "one channel".into() } else { format!("{rows} channels") }
}

fn params(c: &Config) -> Params {
    Params {
        rows: c.shape.rows() as u32,
        channels: c.shape.channels as u32,
        length: c.shape.length as u32,
        tiles: c.shape.length.div_ceil(tile(c.shape.length).0) as u32,
        bias: c.weights_slot().parts.get(1).map_or(0, |part| part.offset) as u32,
        ..Params::default()
    }
}

fn output(c: &Config) -> Step {
    let (tokens, rows) = tile(c.shape.length);
    let tiles = c.shape.length.div_ceil(tokens);
    let keep = c.state_slot().is_some();
    let state = if keep { Operand::Slot(Y + 1) } else { Operand::Workspace(0) };
    let store = keep && tiles == 1;
    let all = c.shape.rows() as f64;
    let again = all * (tiles - 1) as f64 * (c.width - 1) as f64;
    let taps = all * tiles as f64 * (c.width + usize::from(c.bias)) as f64;
    let (size, window) = (c.shape.dtype.size() as f64, if keep { window(c) * 4.0 } else { 0.0 });
    let consts = vec![("WIDTH", c.width as u32), ("TILE", tokens as u32), ("ROWS", rows as u32)];
    let silu = c.activation == Activation::Silu;
    let overrides =
        vec![("BIASED", c.bias.into()), ("SILU", silu.into()), ("CARRY", keep.into()), ("STORE", store.into())];
    let operands = [("x", Operand::Slot(X)), ("weights", WEIGHTS), ("state", state), ("y", Operand::Slot(Y))];
    let groups = c.shape.rows().div_ceil(rows) as u64 * tiles as u64;
    let cost = Cost {
        bytes_read: (c.shape.elements() + again) * size + taps * 4.0 + window,
        bytes_written: c.shape.elements() * size + if store { window } else { 0.0 },
        ..essential(c)
    };
    Step::new(&OUTPUT, Variant::new(c.shape.dtype, consts, overrides), &params(c), &operands, groups, cost)
}

fn state(c: &Config) -> Step {
    let spec = Variant::new(c.shape.dtype, vec![("WIDTH", c.width as u32)], vec![]);
    let operands = [("x", Operand::Slot(X)), ("state", Operand::Slot(Y + 1))];
    let bytes_read = window(c) * c.shape.dtype.size() as f64;
    let cost = Cost { bytes_read, bytes_written: window(c) * 4.0, ..Cost::default() };
    Step::new(&STATE, spec, &params(c), &operands, c.shape.rows() as u64, cost)
}
