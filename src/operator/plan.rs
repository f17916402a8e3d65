//! A plan typed by its configuration, and [`run`], which runs an operator once on host slices.

use std::sync::OnceLock;

use super::{Bound, Configured, Operator, Weighted};
use crate::error::Error;
use crate::gpu::program::{Cost, Program};
use crate::gpu::{self, Context, Recording, Workspace, pack, readback};
use crate::tensor::{Access, DType, HostTensor, Slot, Tensor, TensorMap};

/// An operator with its settings and shape on one device: settings are checked and pipelines are built. Keep it as long
/// as you use the shape.
///
/// Only the tensors of the same operator can be bound to it.
#[derive(Debug)]
pub struct Plan<C> {
    config: C,
    compiled: gpu::Plan,
    workspace: OnceLock<Workspace>,
}

impl<C: Configured> Plan<C> {
    /// Checks the settings and sizes, and builds the pipelines.
    ///
    /// # Errors
    /// What the operator refuses, in one sentence; [`Error::Limit`] with both numbers if something exceeds a limit of
    /// the device.
    pub fn new(ctx: &Context, config: C) -> Result<Self, Error> {
        let compiled = compile(ctx, &config)?;
        Ok(Self { config, compiled, workspace: OnceLock::new() })
    }

    /// The settings and shape.
    pub fn config(&self) -> &C {
        &self.config
    }

    /// The tensors to bind, in order, with the exact shape and storage type of each.
    pub fn slots(&self) -> &[Slot] {
        self.compiled.slots()
    }

    /// The chosen algorithm, with its dispatches and their cost.
    pub fn program(&self) -> &Program {
        self.compiled.program()
    }

    /// Work of one run.
    pub fn cost(&self) -> Cost {
        self.compiled.cost()
    }

    /// Creates a buffer for the carried state, filled with the initial values.
    ///
    /// # Errors
    /// [`Error::Setting`] if the configuration carries no state; [`Error::Device`] if there is not enough memory.
    pub fn new_state(&self) -> Result<Tensor, Error> {
        let Some(slot) = self.slots().iter().find(|slot| slot.access == Access::Update) else {
            return Err(Error::rule(C::ALGORITHM.name, "carry", " is needed for a state, and is not set"));
        };
        readback::upload(self.compiled.context(), slot.name, &pack::pack(slot, &TensorMap::new()))
    }

    /// Binds tensors, with a workspace that the plan owns. All recordings of one plan share this workspace, so they
    /// must not run at the same time. Submissions to one queue never do.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Tensor`], which names the tensor: it is absent, its shape or storage type is
    /// wrong, or it is an output whose buffer is bound twice.
    pub fn bind(&self, tensors: C::Tensors<'_>) -> Result<Recording, Error> {
        let workspace = match self.workspace.get() {
            Some(workspace) => workspace,
            None => {
                let mut workspace = Workspace::new();
                self.compiled.reserve(&mut workspace)?;
                self.workspace.get_or_init(|| workspace)
            }
        };
        self.bind_in(tensors, workspace)
    }

    /// Binds tensors, with a workspace that several plans may share. Call [`Plan::reserve`] on it first.
    ///
    /// # Errors
    /// The errors of [`Plan::bind`]; [`Error::Workspace`] if the workspace was not reserved, [`Error::Setting`] if it
    /// belongs to another context.
    pub fn bind_in(&self, tensors: C::Tensors<'_>, workspace: &Workspace) -> Result<Recording, Error> {
        let bound: Bound<'_> = tensors.into();
        self.compiled.bind(&bound, workspace)
    }

    /// Grows a workspace to the size that this plan needs.
    ///
    /// # Errors
    /// [`Error::Limit`] if a buffer passes what the device allows, [`Error::Device`] if there is no memory for it,
    /// [`Error::Setting`] if it has buffers of another context.
    pub fn reserve(&self, workspace: &mut Workspace) -> Result<(), Error> {
        self.compiled.reserve(workspace)
    }
}

impl<C: Weighted> Plan<C> {
    /// Uploads the weights into one buffer, in the layout that the kernels read. The plan binds it as [`Weighted::SLOT`].
    ///
    /// # Errors
    /// One sentence that names a tensor that is missing, unknown or of the wrong length; [`Error::Device`] if there is
    /// not enough memory.
    pub fn upload_weights(&self, weights: C::Weights<'_>) -> Result<Tensor, Error> {
        let op = C::ALGORITHM.name;
        let Some(slot) = self.slots().iter().find(|slot| slot.name == C::SLOT) else {
            return Err(Error::rule(op, C::SLOT, " are none of this configuration's tensors"));
        };
        let given = named(op, slot.parts.iter().map(|part| (part.name, part.dtype, &part.shape)), weights.into())?;
        if let Some(part) = slot.parts.iter().find(|part| given.get(part.name).is_none()) {
            let expected = format!("{} {}", part.dtype, part.shape);
            return Err(Error::Missing { op, tensor: part.name.into(), expected, given: given.names() });
        }
        readback::upload(self.compiled.context(), slot.name, &pack::pack(slot, &given))
    }
}

/// Compiles a plan for an operator whose type is not known: checks sizes and builds pipelines.
///
/// # Errors
/// The errors of [`Plan::new`].
pub fn compile(ctx: &Context, operator: &dyn Operator) -> Result<gpu::Plan, Error> {
    gpu::Plan::new(ctx, operator.program(ctx.caps())?)
}

/// Converts slices to tensors. Each slice must have as many values as the shape of its part.
pub(crate) fn named<'a, 's>(
    op: &'static str,
    parts: impl Iterator<Item = (&'static str, DType, &'s crate::tensor::Shape)> + Clone,
    given: impl IntoIterator<Item = (&'a str, &'a [f32])>,
) -> Result<TensorMap, Error> {
    let mut tensors = TensorMap::new();
    for (name, values) in given {
        let Some((_, dtype, shape)) = parts.clone().find(|(part, ..)| *part == name) else {
            let names: Vec<_> = parts.map(|(part, ..)| part).collect();
            return Err(Error::tensor(op, name, format!("one of {}", names.join(", ")), "a tensor it does not use"));
        };
        if shape.checked_count() != Some(values.len() as u64) {
            return Err(Error::tensor(op, name, format!("{shape}"), format!("{} values", values.len())));
        }
        tensors.insert(name, HostTensor::f32(shape.clone(), values.to_vec()).cast(dtype));
    }
    Ok(tensors)
}
