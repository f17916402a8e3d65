//! Runs an operator on host tensors, on a GPU or on the `cpu` backend. The command line, `check`, the tests and the
//! benches use it.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::gpu::{Context, Plan, Recording, Schedule, Workspace, pack, readback};
use crate::operator::{Configured, Operator, check_inputs, compile, named};
use crate::tensor::{Access, Tensor, TensorMap};

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Outputs, followed by state tensors under their own names.
    pub outputs: TensorMap,
    /// Description of the algorithm that ran.
    pub variant: String,
    /// On a GPU, time from the first submission until the last one has finished; on the CPU, time of the computation.
    pub wall: Duration,
    /// Bytes of workspace on the GPU; 0 on the CPU.
    pub workspace_bytes: u64,
}

/// An operator with its tensors on a device. It can run repeatedly.
#[derive(Debug)]
pub struct Prepared {
    plan: Plan,
    tensors: Vec<Tensor>,
    workspace: Workspace,
    schedule: Schedule,
}

/// Byte that fills outputs and workspace before a poisoned run. It makes every value NaN in every storage type, so that
/// an output that a kernel does not write, or a value that it reads before writing, becomes visible.
const POISON: u8 = 0xff;

impl Prepared {
    /// Uploads the inputs and binds all tensors. State that is not given starts from its initial value. If `poison` is
    /// set, outputs and workspace are filled with NaN first.
    ///
    /// # Errors
    /// The errors of the operator, the plan and the device.
    pub fn new(ctx: &Context, operator: &dyn Operator, inputs: &TensorMap, poison: bool) -> Result<Self, Error> {
        operator.check_values(inputs)?;
        Self::of(ctx, compile(ctx, operator)?, inputs, poison)
    }

    /// Does the same as [`Prepared::new`] with an existing plan.
    ///
    /// # Errors
    /// The errors of the plan and the device.
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

    /// Binds the plan to the tensors again.
    ///
    /// # Errors
    /// The errors of [`Plan::bind`].
    pub fn bind(&self) -> Result<Recording, Error> {
        let named: Vec<_> = self.plan.slots().iter().map(|s| s.name).zip(&self.tensors).collect();
        self.plan.bind(&named, &self.workspace)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The schedule that a run submits.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Bytes of workspace allocated.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace.bytes()
    }

    /// Runs once and waits. State is updated in place: a second run continues from it.
    ///
    /// # Errors
    /// [`Error::Device`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(&self, ctx: &Context, progress: &mut dyn FnMut(f64)) -> Result<Duration, Error> {
        let start = Instant::now();
        readback::run(ctx, &self.schedule, progress)?;
        Ok(start.elapsed())
    }

    /// Reads back outputs and state.
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
/// The errors of [`Prepared::new`] and [`Prepared::run`].
#[cfg(not(target_arch = "wasm32"))]
pub fn gpu(
    ctx: &Context,
    operator: &dyn Operator,
    inputs: &TensorMap,
    poison: bool,
    progress: &mut dyn FnMut(f64),
) -> Result<Run, Error> {
    operator.validate()?;
    check_inputs(operator.name(), &operator.slots(), inputs)?;
    operator.check_values(inputs)?;
    let prepared = Prepared::of(ctx, compile(ctx, operator)?, inputs, poison)?;
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
/// The errors of the operator.
#[cfg(feature = "cpu")]
pub fn cpu(operator: &dyn Operator, inputs: &TensorMap) -> Result<Run, Error> {
    let start = Instant::now();
    let outputs = operator.cpu(inputs)?;
    Ok(Run { outputs, variant: operator.cpu_variant(), wall: start.elapsed(), workspace_bytes: 0 })
}

/// Runs an operator once, from host slices to host tensors: uploads the inputs, submits the work, waits, and reads the
/// outputs back. A state that is not given starts from its initial values.
///
/// # Errors
/// What the operator or the device refuses, in one sentence.
#[cfg(not(target_arch = "wasm32"))]
pub fn run<'a, C: Configured>(
    ctx: &Context,
    config: &C,
    inputs: impl IntoIterator<Item = (&'a str, &'a [f32])>,
) -> Result<TensorMap, Error> {
    config.validate()?;
    let slots = config.slots();
    let read = slots.iter().filter(|slot| slot.access != Access::Write).flat_map(|slot| &slot.parts);
    let tensors = named(C::ALGORITHM.name, read.map(|part| (part.name, part.dtype, &part.shape)), inputs)?;
    Ok(gpu(ctx, config, &tensors, false, &mut |_| {})?.outputs)
}
