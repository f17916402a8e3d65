//! Runs an operator on tensors of the host: what the command line, `check`, the tests and the benches share.

use std::time::{Duration, Instant};

use super::Operator;
use crate::error::Error;
use crate::gpu::{Context, Plan, Recording, Schedule, Workspace, pack, readback};
use crate::tensor::{Access, HostTensor, Slot, Tensor, TensorMap, Values};

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Run {
    /// Outputs, then state tensors under their own names.
    pub outputs: TensorMap,
    /// Which algorithm ran.
    pub variant: String,
    /// From the first submission to the end of the last; on the CPU, of the computation.
    pub wall: Duration,
    /// Bytes of workspace on the GPU.
    pub workspace_bytes: u64,
}

/// An operator with its tensors on a device, ready to run again and again.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    tensors: Vec<Tensor>,
    workspace: Workspace,
    schedule: Schedule,
}

/// Fills outputs and workspace with bytes that are NaN in every storage type before a run, so that whatever a kernel
/// does not write, or reads before it writes, shows.
const POISON: u8 = 0xff;

impl Prepared {
    /// Uploads inputs and binds everything. State not given starts at its initial value. With `poison`, outputs and workspace are
    /// filled with NaN first.
    ///
    /// # Errors
    /// Whatever the operator, the plan or the device refuses.
    pub fn new(ctx: &Context, operator: &dyn Operator, inputs: &TensorMap, poison: bool) -> Result<Self, Error> {
        Self::of(ctx, super::plan(ctx, operator)?, inputs, poison)
    }

    /// As [`Prepared::new`], of a plan made before.
    ///
    /// # Errors
    /// Whatever the plan or the device refuses.
    pub fn of(ctx: &Context, plan: Plan, inputs: &TensorMap, poison: bool) -> Result<Self, Error> {
        check_inputs(plan.program().op, plan.slots(), inputs)?;
        let mut tensors = Vec::new();
        for slot in plan.slots() {
            let tensor = match slot.access {
                Access::Write => {
                    let tensor = readback::empty(ctx, slot.name, slot.shape(), slot.dtype)?;
                    if poison {
                        readback::fill(ctx, tensor.buffer(), POISON);
                    }
                    tensor
                }
                _ => readback::upload(ctx, slot.name, &pack::pack(slot, inputs))?,
            };
            tensors.push(tensor);
        }
        let mut workspace = Workspace::new();
        workspace.reserve(ctx, plan.workspace())?;
        if poison {
            workspace.buffers().iter().for_each(|buffer| readback::fill(ctx, buffer, POISON));
        }
        let mut prepared = Self { plan, tensors, workspace, schedule: Schedule::new() };
        let recording = prepared.bind()?;
        prepared.schedule.push(recording);
        Ok(prepared)
    }

    /// The plan bound to the tensors once more.
    ///
    /// # Errors
    /// As [`Plan::bind`].
    pub fn bind(&self) -> Result<Recording, Error> {
        let named: Vec<_> = self.plan.slots().iter().map(|s| s.name).zip(&self.tensors).collect();
        self.plan.bind(&named, &self.workspace)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is submitted.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Bytes of workspace held.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace.bytes()
    }

    /// Runs once and waits. State is updated in place, so a second run goes on from it.
    ///
    /// # Errors
    /// [`Error::Device`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, ctx: &Context, progress: &mut dyn FnMut(f64)) -> Result<Duration, Error> {
        let start = Instant::now();
        readback::run(ctx, &self.schedule, progress)?;
        Ok(start.elapsed())
    }

    /// Outputs and state as they are now.
    ///
    /// # Errors
    /// [`Error::Device`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn outputs(&self, ctx: &Context) -> Result<TensorMap, Error> {
        let mut outputs = TensorMap::new();
        for (slot, tensor) in self.plan.slots().iter().zip(&self.tensors) {
            if slot.access != Access::Read {
                for (name, tensor) in pack::unpack(slot, readback::read_blocking(ctx, tensor)?) {
                    outputs.insert(name, tensor);
                }
            }
        }
        Ok(outputs)
    }
}

/// Runs an operator once on a device.
///
/// # Errors
/// As [`Prepared::new`] and [`Prepared::run`].
#[cfg(not(target_arch = "wasm32"))]
pub fn gpu(
    ctx: &Context,
    operator: &dyn Operator,
    inputs: &TensorMap,
    poison: bool,
    progress: &mut dyn FnMut(f64),
) -> Result<Run, Error> {
    let prepared = Prepared::new(ctx, operator, inputs, poison)?;
    let wall = prepared.run(ctx, progress)?;
    Ok(Run {
        outputs: prepared.outputs(ctx)?,
        variant: prepared.plan.program().variant().to_owned(),
        wall,
        workspace_bytes: prepared.workspace_bytes(),
    })
}

/// Runs an operator once on the `cpu` backend.
///
/// # Errors
/// Whatever the operator refuses.
#[cfg(feature = "cpu")]
pub fn cpu(operator: &dyn Operator, inputs: &TensorMap) -> Result<Run, Error> {
    let start = Instant::now();
    let outputs = operator.cpu(inputs)?;
    Ok(Run { outputs, variant: operator.cpu_variant(), wall: start.elapsed(), workspace_bytes: 0 })
}

/// Checks that `tensors` holds every input of the slots with its shape and dtype; state may be absent.
///
/// # Errors
/// [`Error::Missing`] or [`Error::Tensor`].
pub fn check_inputs(op: &'static str, slots: &[Slot], tensors: &TensorMap) -> Result<(), Error> {
    for slot in slots.iter().filter(|slot| slot.access != Access::Write) {
        for part in &slot.parts {
            let expected = format!("{} {}", part.dtype, part.shape);
            match tensors.get(part.name) {
                Some(tensor) if *tensor.shape() == part.shape && tensor.dtype() == part.dtype => {
                    check_counts(op, part.name, tensor)?;
                }
                Some(tensor) => {
                    let found = format!("{} {}", tensor.dtype(), tensor.shape());
                    return Err(Error::tensor(op, part.name, expected, found));
                }
                None if slot.access == Access::Update => {}
                None => return Err(Error::Missing { op, tensor: part.name.into(), expected, given: tensors.names() }),
            }
        }
    }
    Ok(())
}

/// Refuses counts (`position`) below zero.
fn check_counts(op: &'static str, name: &str, tensor: &HostTensor) -> Result<(), Error> {
    match tensor.values() {
        Values::I64(counts) => match counts.iter().find(|count| **count < 0) {
            Some(count) => Err(Error::tensor(op, name, "a whole number of 0 or more", count.to_string())),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
