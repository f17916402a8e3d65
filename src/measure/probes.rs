//! Small programs that measure the limits of a device: copy bandwidth, multiply-add rate, exp2 rate, cost of a
//! dispatch. Pure; `measure::roofline` runs and times them.

use crate::gpu::caps::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Program, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::tensor::{Access, DType, Slot};

params! {
    /// Must match `struct Params` in `shaders/probes/types.wgsl`.
    struct Params {
        grid: Grid,
        count: u32,
        rounds: u32,
        _pad: [u32; 2],
    }
}
const TYPES: Fragment = fragment!("probes/types.wgsl");
const NAME: &str = "probes";

const fn kernel(name: &'static str, sources: &'static [Fragment]) -> Kernel {
    let bounds_proof = Some("the only index is below the number of vec4s by a guard or by the number of workgroups");
    Kernel::new(name, sources, Params::UNIFORM, bounds_proof)
}

static COPY: Kernel = kernel("probes_copy", &[TYPES, fragment!("probes/copy.wgsl")]);
static MULTIPLY_ADD: Kernel = kernel("probes_multiply_add", &[TYPES, fragment!("probes/multiply_add.wgsl")]);
static EXP2: Kernel = kernel("probes_exp2", &[TYPES, fragment!("probes/exp2.wgsl")]);
static EMPTY: Kernel = kernel("probes_empty", &[TYPES, fragment!("probes/empty.wgsl")]);

/// Number of vec4s that a workgroup copies.
const COPIED: u64 = 1024;
/// Invocations per workgroup. Each writes one vec4 of sums.
const INVOCATIONS: u64 = 256;
/// Flops and exponentials of one loop iteration of an invocation.
const FLOPS: f64 = 512.0;
const EXPS: f64 = 64.0;

/// Every kernel of this module, for shader validation.
pub fn kernels() -> Vec<(&'static Kernel, Variant)> {
    [&COPY, &MULTIPLY_ADD, &EXP2, &EMPTY].into_iter().map(|kernel| (kernel, spec())).collect()
}

fn spec() -> Variant {
    Variant { elem: DType::F32, fragments: vec![], consts: vec![], overrides: vec![], own: None }
}

fn program(kernel: &'static Kernel, slots: Vec<Slot>, params: Params, groups: u64, cost: Cost) -> Program {
    let named: Vec<_> = slots.iter().enumerate().map(|(i, slot)| (slot.name, Operand::Slot(i))).collect();
    let step = Step::new(kernel, spec(), &params, &named, groups, cost);
    Program::new(NAME, kernel.name.into(), slots, vec![], vec![step])
}

/// Largest number of bytes that [`copy`] can move on this device. Half of them are the source, which must fit in one
/// binding.
pub fn largest_copy(caps: &Caps) -> u64 {
    // A shader numbers elements with u32.
    caps.largest_binding().min(4 * u64::from(u32::MAX)) / 16 * 16 * 2
}

/// A copy that moves `bytes` bytes, read and written together, at most [`largest_copy`].
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

/// Number of workgroups of the arithmetic probes: several times the number that fills the device.
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

/// f32 multiply-adds in registers.
pub fn multiply_add(caps: &Caps) -> Program {
    arithmetic(&MULTIPLY_ADD, full(caps), 32, FLOPS, 0.0)
}

/// f32 exponentials in registers.
pub fn exp2(caps: &Caps) -> Program {
    arithmetic(&EXP2, full(caps), 8, 0.0, EXPS)
}

/// An empty kernel with one workgroup.
pub fn empty() -> Program {
    arithmetic(&EMPTY, 1, 0, 0.0, 0.0)
}
