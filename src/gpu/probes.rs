//! Small programs that find out what a device can do at most: copy, multiply and add, exponentiate, start a dispatch.
//! Pure; `ops::ceilings` runs and times them.

use bytemuck::{Pod, Zeroable};

use super::caps::Caps;
use super::grid::Grid;
use super::program::{Cost, Operand, Program, Step};
use super::source::{Bind, Field, Kernel, Source, Spec, fields, source};
use crate::tensor::{Access, DType, Slot};

/// Twin of `struct Params` in `shaders/probes/types.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, Pod, Zeroable)]
struct Params {
    grid: Grid,
    count: u32,
    rounds: u32,
    _pad: [u32; 2],
}

const FIELDS: &[Field] = fields!(Params: grid, count, rounds, _pad);
const TYPES: Source = source!("probes/types.wgsl");
const SUMS: &[(&str, Bind)] = &[("sums", Bind::Write)];
const NAME: &str = "probes";

const fn kernel(name: &'static str, sources: &'static [Source], bindings: &'static [(&'static str, Bind)]) -> Kernel {
    let bounds_proof = Some("the only index is below the number of vec4s by a guard or by the number of workgroups");
    Kernel { name, sources, bindings, params: FIELDS, params_size: size_of::<Params>(), bounds_proof }
}

static COPY: Kernel =
    kernel("probes_copy", &[TYPES, source!("probes/copy.wgsl")], &[("source", Bind::Read), ("sink", Bind::Write)]);
static MULTIPLY_ADD: Kernel = kernel("probes_multiply_add", &[TYPES, source!("probes/multiply_add.wgsl")], SUMS);
static EXP2: Kernel = kernel("probes_exp2", &[TYPES, source!("probes/exp2.wgsl")], SUMS);
static EMPTY: Kernel = kernel("probes_empty", &[TYPES, source!("probes/empty.wgsl")], SUMS);

/// vec4s that a workgroup copies.
const COPIED: u64 = 1024;
/// Invocations of a workgroup, each of which writes one vec4 of sums.
const INVOCATIONS: u64 = 256;
/// What one turn of the loop of an invocation does: flops, exponentials.
const FLOPS: f64 = 512.0;
const EXPS: f64 = 64.0;

/// Every kernel here, for shader validation.
pub fn kernels() -> Vec<(&'static Kernel, Spec)> {
    [&COPY, &MULTIPLY_ADD, &EXP2, &EMPTY].into_iter().map(|kernel| (kernel, spec())).collect()
}

fn spec() -> Spec {
    Spec { elem: DType::F32, fragments: vec![], consts: vec![], overrides: vec![] }
}

fn program(kernel: &'static Kernel, slots: Vec<Slot>, params: Params, groups: u64, cost: Cost) -> Program {
    let params = bytemuck::bytes_of(&params).to_vec();
    let operands = (0..slots.len()).map(Operand::Slot).collect();
    let step = Step { kernel, spec: spec(), params, operands, first: 0, groups, cost };
    Program::new(NAME, kernel.name.into(), slots, vec![], vec![step])
}

/// The most bytes that [`copy`] copies on this device: a source of half the size, within one binding.
pub fn largest_copy(caps: &Caps) -> u64 {
    // As many elements as a shader can number.
    caps.largest_binding().min(4 * u64::from(u32::MAX)) / 16 * 16 * 2
}

/// Copies: `bytes` read and written together, up to [`largest_copy`].
pub fn copy(caps: &Caps, bytes: u64) -> Program {
    let count = (bytes.min(largest_copy(caps)) / 32).max(1);
    let slot = |name, access| Slot::plain(name, access, DType::F32, [count as usize, 4]);
    let each = count as f64 * 16.0;
    program(
        &COPY,
        vec![slot("source", Access::Read), slot("sink", Access::Write)],
        Params { count: count as u32, ..Params::default() },
        count.div_ceil(COPIED),
        Cost { bytes_read: each, bytes_written: each, ..Cost::default() },
    )
}

/// Workgroups of the probes of arithmetic: several times what fills the device.
fn full(caps: &Caps) -> u64 {
    4 * caps.full_groups
}

fn arithmetic(kernel: &'static Kernel, groups: u64, rounds: u32, flops: f64, exps: f64) -> Program {
    let invocations = groups * INVOCATIONS;
    let turns = invocations as f64 * f64::from(rounds);
    let sums = Slot::plain("sums", Access::Write, DType::F32, [invocations as usize, 4]);
    let bytes_written = invocations as f64 * 16.0;
    let cost = Cost { flops: turns * flops, exps: turns * exps, bytes_read: 0.0, bytes_written };
    program(kernel, vec![sums], Params { rounds, ..Params::default() }, groups, cost)
}

/// Multiplies and adds in registers, f32.
pub fn multiply_add(caps: &Caps) -> Program {
    arithmetic(&MULTIPLY_ADD, full(caps), 32, FLOPS, 0.0)
}

/// Exponentiates in registers, f32.
pub fn exp2(caps: &Caps) -> Program {
    arithmetic(&EXP2, full(caps), 8, 0.0, EXPS)
}

/// Does nothing, in one workgroup.
pub fn empty() -> Program {
    arithmetic(&EMPTY, 1, 0, 0.0, 0.0)
}
