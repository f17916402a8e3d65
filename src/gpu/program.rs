//! The GPU work of an operator as data: tensors, workspace, dispatches, cost. Pure: it contains no wgpu type, so sizes
//! can be tested at shapes that no machine could hold.

use std::fmt;
use std::ops::Range;

use super::caps::Caps;
use super::shader::{self, Fragment, Kernel, Uniform, UniformData, Variant};
use crate::error::Error;
use crate::tensor::{Layout, Slot};

/// Work of one run: floating-point operations, exponentials and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
    /// Evaluations of `exp`, which GPUs compute in a slower unit; not included in `flops`.
    pub exps: f64,
    /// Bytes read from global memory.
    pub bytes_read: f64,
    /// Bytes written to global memory.
    pub bytes_written: f64,
}

impl Cost {
    /// Read and written bytes together.
    pub fn bytes(&self) -> f64 {
        self.bytes_read + self.bytes_written
    }
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            flops: self.flops + other.flops,
            exps: self.exps + other.exps,
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_written: self.bytes_written + other.bytes_written,
        }
    }
}

impl std::ops::Mul<f64> for Cost {
    type Output = Cost;
    fn mul(self, share: f64) -> Cost {
        Cost {
            flops: self.flops * share,
            exps: self.exps * share,
            bytes_read: self.bytes_read * share,
            bytes_written: self.bytes_written * share,
        }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(iter: I) -> Cost {
        iter.fold(Cost::default(), |a, b| a + b)
    }
}

/// What one storage binding of a kernel is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// The whole slot of that index in [`Program::slots`].
    Slot(usize),
    /// Some elements of a slot. The first one lies on a multiple of the device's binding alignment.
    Part {
        /// Index in [`Program::slots`].
        slot: usize,
        /// First element.
        first: u64,
        /// Number of elements.
        count: u64,
    },
    /// The workspace buffer of that index in [`Program::workspace`].
    Workspace(usize),
    /// The counters: [`Program::counters`].
    Counters,
}

/// The contents of an operator's own uniform, at binding 1 of its kernels.
#[derive(Debug, Clone)]
pub(crate) struct Own {
    uniform: Uniform,
    bytes: Vec<u8>,
}

impl Own {
    /// The uniform with these contents.
    pub(crate) fn new<P: UniformData>(own: &P) -> Self {
        Self { uniform: P::UNIFORM, bytes: bytemuck::bytes_of(own).to_vec() }
    }
}

/// An operand with the name of the kernel's buffer.
pub(crate) type Named = (&'static str, Operand);

/// A scratch buffer that the plan needs during one run. Its initial content is undefined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scratch {
    /// What it holds, for example "segment states".
    pub name: &'static str,
    /// Its size.
    pub bytes: u64,
}

/// One kernel over one grid.
#[derive(Debug, Clone)]
pub struct Step {
    /// The kernel.
    pub kernel: &'static Kernel,
    /// How it is specialised.
    pub spec: Variant,
    /// The same for strided tensors whose strides or starts are no multiples of four elements, where `spec` needs these.
    pub narrow: Option<Variant>,
    /// The `Params` uniform as bytes. Its first 16 bytes are [`Grid`](super::grid::Grid), filled by the plan.
    pub params: Vec<u8>,
    /// The operator's own uniform as bytes; empty if the kernel has none.
    pub own: Vec<u8>,
    /// One operand per storage binding of the kernel, in the order of [`shader::bindings`].
    pub operands: Vec<Operand>,
    /// Index of the first workgroup: not 0 in the later parts of a step that was [`cut`].
    pub first: u64,
    /// Number of workgroups. The plan folds it into three dimensions and splits it for a watchdog.
    pub groups: u64,
    /// Work of the whole step.
    pub cost: Cost,
    /// Operands that the kernel reads with strides of its uniform, so that they may be strided tensors.
    pub strided: Vec<Strided>,
}

impl Step {
    /// One dispatch of so many workgroups, without strided operands. `named` says what each buffer of the kernel is bound to;
    /// names that the kernel does not declare are ignored.
    pub(crate) fn new(
        kernel: &'static Kernel,
        spec: Variant,
        params: &impl UniformData,
        named: &[Named],
        groups: u64,
        cost: Cost,
    ) -> Self {
        let find = |name| named.iter().find(|(other, _)| *other == name).map(|(_, operand)| *operand);
        // A buffer that has no operand makes the plan fail (`operands_fit`).
        let operands = shader::bindings(kernel, &spec).iter().filter_map(|binding| find(binding.name)).collect();
        let params = bytemuck::bytes_of(params).to_vec();
        let (own, strided) = (Vec::new(), Vec::new());
        Self { kernel, spec, narrow: None, params, own, operands, first: 0, groups, cost, strided }
    }

    /// Sets the uniform `own`, if there is one and a fragment of the variant declares it.
    pub(crate) fn own(mut self, own: Option<&Own>) -> Self {
        let declares = |fragment: &Fragment| fragment.text.contains("var<uniform> own:");
        if let Some(own) = own
            && self.spec.fragments.iter().any(declares)
        {
            for spec in std::iter::once(&mut self.spec).chain(&mut self.narrow) {
                spec.own = Some(own.uniform);
            }
            self.own.clone_from(&own.bytes);
        }
        self
    }

    /// Adds the variant that serves odd strides.
    pub(crate) fn or_narrow(self, narrow: Option<Variant>) -> Self {
        Self { narrow, ..self }
    }
}

/// An operand whose strides are in the uniform, as `struct Strides` of `shaders/lib/strides.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strided {
    /// Index among the step's operands.
    pub operand: usize,
    /// Byte offset in the uniform.
    pub at: usize,
    /// Order of the tensor's four axes.
    pub layout: Layout,
    /// The number of the last token, for a kernel that takes the tokens from the last to the first.
    pub backward_from: Option<u32>,
}

impl Strided {
    /// What the uniform says of a tensor of four axes with strides, bound so many elements in front of its first. Indices up
    /// to the last element fit u32. The shader subtracts the base from them and wraps around, so that it may be negative.
    pub(super) fn uniform(&self, strides: &[usize], before: u64) -> [u32; 4] {
        let (head, token) = match self.layout {
            Layout::Bhnd => (strides[1], strides[2]),
            Layout::Bnhd => (strides[2], strides[1]),
        };
        let forward = [strides[0] as u32, head as u32, token as u32, (before as u32).wrapping_neg()];
        self.backward_from.map_or(forward, |last| backward(forward, last))
    }
}

/// Strides as the uniform stores them, of the same tensor with the tokens up to `last` from the last to the first: the stride
/// from token to token is negative, which wraps around in u32, and token 0 is the last.
pub(crate) fn backward([batch, head, token, base]: [u32; 4], last: u32) -> [u32; 4] {
    [batch, head, token.wrapping_neg(), base.wrapping_sub(last.wrapping_mul(token))]
}

/// The elements of a tensor that the workgroups of one unit of a step (a key head or a batch entry) access.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// Index among the step's operands, of an [`Operand::Slot`].
    pub operand: usize,
    /// Name of the tensor.
    pub name: &'static str,
    /// Bytes of an element.
    pub size: u64,
    /// Elements per unit. Units are contiguous.
    pub elements: u64,
    /// Byte offset in the uniform of the binding's first element (u32), to which that of the part is added. The kernel
    /// subtracts it from its indices.
    pub base: usize,
}

/// What a step can be cut into: the slowest axis of its workgroup numbers.
#[derive(Debug, Clone)]
pub struct Units<'a> {
    /// Number of units that the tensors have.
    pub all: u64,
    /// One unit in words, for example "one key head".
    pub name: &'a str,
    /// Heads per unit.
    pub heads: u64,
    /// The heads that the step covers, numbered over all units.
    pub covered: Range<u64>,
}

impl<'a> Units<'a> {
    /// So many units of one head, all covered by the step.
    pub fn whole(all: u64, name: &'a str) -> Self {
        Self { all, name, heads: 1, covered: 0..all }
    }
}

/// Splits a step along its `units` so that the part of each tensor in `shares` that a step binds is within the device's binding
/// limit. A step that fits is returned unchanged.
///
/// # Errors
/// [`Error::Limit`] with both numbers if one unit does not fit.
pub fn cut(op: &'static str, step: Step, units: &Units<'_>, shares: &[Share], caps: &Caps) -> Result<Vec<Step>, Error> {
    let limit = caps.limits.max_storage_buffer_binding_size;
    let align = u64::from(caps.limits.min_storage_buffer_offset_alignment);
    let whole = |share: &Share| share.elements * units.all * share.size;
    if shares.iter().all(|share| whole(share) <= limit) {
        return Ok(vec![step]);
    }
    let mut most = units.all;
    for share in shares.iter().filter(|share| whole(share) > limit) {
        let bytes = share.elements * share.size;
        // A binding starts on an aligned offset, up to one alignment before the first unit.
        let slack = if bytes.is_multiple_of(align) { 0 } else { align };
        most = most.min((limit.saturating_sub(slack)) / bytes);
        if most == 0 {
            let what = format!("tensor `{}` (bytes of {})", share.name, units.name);
            return Err(Error::Limit { op: op.into(), what, needed: bytes + slack, limit });
        }
    }
    let mut steps = Vec::new();
    let Range { start: from, end: to } = units.covered;
    for start in (from / units.heads..to.div_ceil(units.heads)).step_by(most as usize) {
        let end = (start + most).min(to.div_ceil(units.heads));
        let (first, last) = (from.max(start * units.heads), to.min(end * units.heads));
        let groups = step.groups / (to - from);
        let mut piece = Step {
            first: step.first + groups * (first - from),
            groups: groups * (last - first),
            cost: step.cost * ((last - first) as f64 / (to - from) as f64),
            ..step.clone()
        };
        for share in shares {
            let Operand::Slot(slot) = step.operands[share.operand] else { continue };
            let first = aligned(start * share.elements, share.size, caps);
            let end = end * share.elements;
            piece.operands[share.operand] = Operand::Part { slot, first, count: end - first };
            let base = share.base..share.base + 4;
            // Two tensors of one shape may share a base.
            let start = bytemuck::pod_read_unaligned::<u32>(&step.params[base.clone()]);
            piece.params[base].copy_from_slice(&start.wrapping_add(first as u32).to_le_bytes());
        }
        steps.push(piece);
    }
    Ok(steps)
}

/// The last element at or before `first` at which a binding may start, for elements of `size` bytes.
pub fn aligned(first: u64, size: u64, caps: &Caps) -> u64 {
    let align = u64::from(caps.limits.min_storage_buffer_offset_alignment) / size;
    first / align * align
}

/// Refuses tensors that are too large for any memory, so that sizes computed from them do not overflow.
///
/// # Errors
/// [`Error::Tensor`].
pub fn check_memory(op: &'static str, slots: &[Slot]) -> Result<(), Error> {
    for slot in slots {
        let needed = slot.checked_bytes().unwrap_or(u64::MAX);
        if needed > isize::MAX as u64 {
            let expected = "a shape that fits in memory";
            let found = slot.parts.iter().map(|p| p.shape.to_string()).collect::<Vec<_>>().join(" and ");
            return Err(Error::tensor(op, slot.name, expected, found));
        }
    }
    Ok(())
}

/// Refuses tensors whose elements a shader cannot number with u32.
///
/// # Errors
/// [`Error::Limit`] naming the tensor.
pub fn check_indices(op: &'static str, slots: &[Slot]) -> Result<(), Error> {
    for slot in slots {
        let needed = slot.checked_count().unwrap_or(u64::MAX);
        if needed > u64::from(u32::MAX) {
            let what = format!("tensor `{}` (elements)", slot.name);
            return Err(Error::Limit { op: op.into(), what, needed, limit: u32::MAX.into() });
        }
    }
    Ok(())
}

/// Refuses a workspace whose elements (4 bytes each) a shader cannot number with u32.
///
/// # Errors
/// [`Error::Limit`] naming it.
pub fn check_workspace(op: &'static str, workspace: &[Scratch]) -> Result<(), Error> {
    for scratch in workspace {
        let needed = scratch.bytes / 4;
        if needed > u64::from(u32::MAX) {
            let what = format!("workspace `{}` (elements)", scratch.name);
            return Err(Error::Limit { op: op.into(), what, needed, limit: u32::MAX.into() });
        }
    }
    Ok(())
}

/// The complete work of one run of an operator at a shape. Only operators of this crate create programs. Their kernels
/// may run without inserted checks; a program that was changed from outside ([`Program::edited`]) loses this
/// permission.
#[derive(Debug, Clone)]
#[must_use]
pub struct Program {
    pub(crate) op: &'static str,
    pub(crate) variant: String,
    pub(crate) slots: Vec<Slot>,
    pub(crate) workspace: Vec<Scratch>,
    pub(crate) steps: Vec<Step>,
    pub(crate) counters: usize,
    trusted: bool,
}

impl Program {
    /// A program of this crate's own kernels.
    pub(crate) fn new(
        op: &'static str,
        variant: String,
        slots: Vec<Slot>,
        workspace: Vec<Scratch>,
        steps: Vec<Step>,
    ) -> Self {
        Self { op, variant, slots, workspace, steps, counters: 0, trusted: true }
    }

    /// Adds so many counters.
    pub(crate) fn counting(self, counters: usize) -> Self {
        Self { counters, ..self }
    }

    /// Changes the program, for tests and experiments. Its kernels then run with every check that wgpu inserts.
    pub fn edited(mut self, edit: impl FnOnce(&mut Vec<Slot>, &mut Vec<Scratch>, &mut Vec<Step>)) -> Self {
        edit(&mut self.slots, &mut self.workspace, &mut self.steps);
        self.trusted = false;
        self
    }

    /// Operator's name.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// The chosen algorithm and tiles as text: "two passes, segments of 1024, tiles of 8 tokens".
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// The caller's tensors.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Scratch buffers.
    pub fn workspace(&self) -> &[Scratch] {
        &self.workspace
    }

    /// Number of counters: u32 of every recording's own, which are 0 before each run and after it. A run that has begun must be
    /// finished: one of which only some dispatches are submitted leaves them at other numbers.
    pub fn counters(&self) -> usize {
        self.counters
    }

    /// Dispatches, in order. Each sees what those before it wrote.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether its kernels may run without inserted checks.
    pub(crate) fn trusted(&self) -> bool {
        self.trusted
    }

    /// Work of all steps.
    pub fn cost(&self) -> Cost {
        self.steps.iter().map(|s| s.cost).sum()
    }

    /// Bytes of workspace.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace.iter().map(|w| w.bytes).sum()
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.op, self.variant)?;
        for step in &self.steps {
            writeln!(
                f,
                "  {:<40} {:>8} groups {:>10.3} MFLOP {:>10.3} MB",
                step.spec.label(step.kernel),
                step.groups,
                step.cost.flops / 1e6,
                step.cost.bytes() / 1e6
            )?;
        }
        Ok(())
    }
}
