//! What an operator asks of a GPU, as data: tensors, workspace, dispatches, cost. Pure: no wgpu type, so that sizes are
//! tested at shapes no machine could hold.

use std::fmt;

use super::source::{Kernel, Spec};
use crate::error::Error;
use crate::tensor::Slot;

/// Work of one run: floating-point operations and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts two.
    pub flops: f64,
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
            bytes_read: self.bytes_read + other.bytes_read,
            bytes_written: self.bytes_written + other.bytes_written,
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
    /// The slot of that index in [`Program::slots`].
    Slot(usize),
    /// The workspace buffer of that index in [`Program::workspace`].
    Workspace(usize),
}

/// A buffer the plan needs for itself, for the time of one run. Dirty at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scratch {
    /// What is in it: "segment states".
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
    pub spec: Spec,
    /// The `Params` uniform as bytes. Its first 16 bytes are [`Grid`](super::grid::Grid), filled by the plan.
    pub params: Vec<u8>,
    /// One operand per storage binding of the kernel, in its order.
    pub operands: Vec<Operand>,
    /// Workgroups, as one number; the plan folds it into three dimensions and cuts it for a watchdog.
    pub groups: u64,
    /// Work of the whole step.
    pub cost: Cost,
}

/// Refuses tensors that no memory can hold, so that sizes computed from them do not overflow.
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

/// All of one run of an operator at a shape. Made by the operators; their kernels may run without inserted checks because
/// nothing outside this crate changes a program and keeps that ([`Program::edited`]).
#[derive(Debug, Clone)]
pub struct Program {
    pub(crate) op: &'static str,
    pub(crate) variant: String,
    pub(crate) slots: Vec<Slot>,
    pub(crate) workspace: Vec<Scratch>,
    pub(crate) steps: Vec<Step>,
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
        Self { op, variant, slots, workspace, steps, trusted: true }
    }

    /// The program changed, for tests and experiments. Its kernels run with every check that wgpu inserts.
    pub fn edited(mut self, edit: impl FnOnce(&mut Vec<Slot>, &mut Vec<Scratch>, &mut Vec<Step>)) -> Self {
        edit(&mut self.slots, &mut self.workspace, &mut self.steps);
        self.trusted = false;
        self
    }

    /// Operator's name.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// Which algorithm and tiles were chosen, for people: "two passes, segments of 1024, tiles of 8 tokens".
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Tensors of the caller.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Buffers of the plan.
    pub fn workspace(&self) -> &[Scratch] {
        &self.workspace
    }

    /// Dispatches, in order. Each sees what those before it wrote.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether the proofs of its kernels hold.
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
