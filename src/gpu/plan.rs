//! A plan: an operator at a shape on a device. Pipelines built, limits checked, dispatches cut.

use std::sync::Arc;

use super::buffer;
use super::context::Context;
use super::grid::{self, Dispatch};
use super::kernel::{Pipeline, pop};
use super::program::{Cost, Operand, Program, Scratch, check_indices};
use super::recording::{Recorded, Recording};
use super::source::Bind;
use super::workspace::Workspace;
use crate::error::Error;
use crate::tensor::{Access, Slot, Tensor};

/// Uniform slots are this far apart: a multiple of the portable offset alignment, and more than any `Params` has.
const UNIFORM_STRIDE: u64 = 768;

/// An operator at a shape on a device, ready to be bound to tensors. Keep it as long as the shape is used.
#[derive(Debug)]
pub struct Plan {
    ctx: Context,
    program: Program,
    steps: Vec<(Arc<Pipeline>, Vec<Dispatch>)>,
}

impl Plan {
    /// Checks sizes against the device and builds pipelines.
    ///
    /// # Errors
    /// [`Error::Limit`] with both numbers if a tensor, the workspace or a kernel does not fit the device;
    /// [`Error::Kernel`] if a kernel does not compile.
    pub fn new(ctx: &Context, program: Program) -> Result<Self, Error> {
        let caps = ctx.caps();
        let binding = caps.largest_binding();
        let limit = |what: String, needed: u64, limit: u64| Error::Limit { op: program.op.into(), what, needed, limit };
        check_indices(program.op, &program.slots)?;
        for slot in &program.slots {
            let needed = slot.checked_bytes().unwrap_or(u64::MAX);
            if needed > caps.limits.max_buffer_size {
                return Err(limit(format!("tensor `{}` (bytes)", slot.name), needed, caps.limits.max_buffer_size));
            }
        }
        for scratch in &program.workspace {
            if scratch.bytes > binding {
                return Err(limit(format!("workspace `{}` (bytes)", scratch.name), scratch.bytes, binding));
            }
        }
        if !operands_fit(&program) {
            return Err(Error::Kernel { kernel: program.op.into(), message: "operands or uniform do not fit".into() });
        }
        let mut steps = Vec::with_capacity(program.steps.len());
        for step in &program.steps {
            for operand in &step.operands {
                let (slot, needed) = match *operand {
                    Operand::Slot(i) => (&program.slots[i], program.slots[i].checked_bytes().unwrap_or(u64::MAX)),
                    Operand::Part { slot, count, .. } => {
                        (&program.slots[slot], count.saturating_mul(program.slots[slot].dtype.size() as u64))
                    }
                    Operand::Workspace(_) => continue,
                };
                if needed > caps.limits.max_storage_buffer_binding_size {
                    let what = format!("tensor `{}` (bytes in one binding)", slot.name);
                    return Err(limit(what, needed, caps.limits.max_storage_buffer_binding_size));
                }
            }
            let per_group = step.cost.flops.max(1.0) / step.groups.max(1) as f64;
            let most = ((caps.dispatch_flops / per_group) as u64).max(caps.full_groups);
            let per_dimension = caps.limits.max_compute_workgroups_per_dimension;
            let dispatches = grid::dispatches(step.first, step.groups, most, per_dimension)
                .ok_or_else(|| limit("workgroups".into(), step.groups, u32::MAX.into()))?;
            let checked = caps.shader_checks || !program.trusted();
            let pipeline = ctx.kernels().get(ctx.device(), caps, step.kernel, &step.spec, checked)?;
            steps.push((pipeline, dispatches));
        }
        Ok(Self { ctx: ctx.clone(), program, steps })
    }

    /// Tensors to bind, in order, exactly as they must be.
    pub fn slots(&self) -> &[Slot] {
        &self.program.slots
    }

    /// Workspace to reserve before [`Plan::bind`].
    pub fn workspace(&self) -> &[Scratch] {
        &self.program.workspace
    }

    /// Which algorithm was chosen and what it costs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Work of one run.
    pub fn cost(&self) -> Cost {
        self.program.cost()
    }

    /// Binds tensors by name. Touches neither queue nor encoder.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Tensor`] naming the tensor: not given, of another shape or dtype, or an output
    /// whose buffer is also bound elsewhere; [`Error::Limit`] if the workspace was not reserved.
    pub fn bind(&self, tensors: &[(&str, &Tensor)], workspace: &Workspace) -> Result<Recording, Error> {
        let bound = self.match_slots(tensors)?;
        for (i, scratch) in self.program.workspace.iter().enumerate() {
            let has = workspace.buffers().get(i).map_or(0, wgpu::Buffer::size);
            if has < scratch.bytes {
                let what = format!("workspace `{}` (bytes, see Workspace::reserve)", scratch.name);
                return Err(Error::Limit { op: self.program.op.into(), what, needed: scratch.bytes, limit: has });
            }
        }
        let device = self.ctx.device();
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let uniforms = self.uniforms()?;
        let mut recorded = Vec::new();
        for (step, (pipeline, dispatches)) in self.program.steps.iter().zip(&self.steps) {
            for (part, dispatch) in dispatches.iter().enumerate() {
                let mut entries = vec![wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &uniforms,
                        offset: recorded.len() as u64 * UNIFORM_STRIDE,
                        size: std::num::NonZeroU64::new(step.params.len() as u64),
                    }),
                }];
                for (i, operand) in step.operands.iter().enumerate() {
                    let (buffer, offset, size) = match *operand {
                        Operand::Slot(slot) => {
                            (bound[slot].buffer(), bound[slot].offset(), bound[slot].binding_bytes())
                        }
                        Operand::Part { slot, first, count } => {
                            let size = self.program.slots[slot].dtype.size() as u64;
                            let bytes = (count * size).next_multiple_of(4);
                            (bound[slot].buffer(), bound[slot].offset() + first * size, bytes)
                        }
                        Operand::Workspace(slot) => {
                            let size = self.program.workspace[slot].bytes.max(16).next_multiple_of(4);
                            (&workspace.buffers()[slot], 0, size)
                        }
                    };
                    entries.push(wgpu::BindGroupEntry {
                        binding: i as u32 + 1,
                        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                            buffer,
                            offset,
                            size: std::num::NonZeroU64::new(size),
                        }),
                    });
                }
                let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                    label: Some(&pipeline.label),
                    layout: &pipeline.layout,
                    entries: &entries,
                });
                let share = f64::from(dispatch.grid.end - dispatch.grid.base) / step.groups.max(1) as f64;
                recorded.push(Recorded {
                    label: if dispatches.len() == 1 {
                        pipeline.label.clone()
                    } else {
                        format!("{} {}/{}", pipeline.label, part + 1, dispatches.len())
                    },
                    pipeline: pipeline.clone(),
                    group,
                    groups: dispatch.groups,
                    cost: step.cost * share,
                });
            }
        }
        if let Some(error) = pop(scope) {
            return Err(Error::Device(format!("{}: {error}", self.program.op)));
        }
        Ok(Recording::new(self.program.op, recorded))
    }

    /// One buffer with the uniform of every dispatch, filled while mapped: no queue.
    fn uniforms(&self) -> Result<wgpu::Buffer, Error> {
        let count: usize = self.steps.iter().map(|(_, d)| d.len()).sum();
        let size = UNIFORM_STRIDE * count.max(1) as u64;
        let mut bytes = vec![0u8; size as usize];
        let mut at = 0usize;
        for (step, (_, dispatches)) in self.program.steps.iter().zip(&self.steps) {
            for dispatch in dispatches {
                bytes[at..at + step.params.len()].copy_from_slice(&step.params);
                let grid = bytemuck::bytes_of(&dispatch.grid);
                bytes[at..at + grid.len()].copy_from_slice(grid);
                at += UNIFORM_STRIDE as usize;
            }
        }
        buffer::filled(&self.ctx, "uniforms", &bytes, wgpu::BufferUsages::UNIFORM)
    }

    fn match_slots<'t>(&self, tensors: &[(&str, &'t Tensor)]) -> Result<Vec<&'t Tensor>, Error> {
        let op = self.program.op;
        let mut bound: Vec<&Tensor> = Vec::with_capacity(self.program.slots.len());
        for slot in &self.program.slots {
            let Some((_, tensor)) = tensors.iter().find(|(name, _)| *name == slot.name) else {
                let given: Vec<_> = tensors.iter().map(|(n, _)| *n).collect();
                return Err(Error::Missing {
                    op,
                    tensor: slot.name.into(),
                    expected: describe(slot),
                    given: if given.is_empty() { "none".into() } else { given.join(", ") },
                });
            };
            let fits = match slot.parts.as_slice() {
                [only] => only.shape == *tensor.shape(),
                _ => Some(tensor.shape().count() as u64) == slot.checked_count(),
            };
            if !fits || tensor.dtype() != slot.dtype {
                let found = format!("{} {}", tensor.dtype(), tensor.shape());
                return Err(Error::tensor(op, slot.name, describe(slot), found));
            }
            bound.push(tensor);
        }
        if let Some((name, _)) = tensors.iter().find(|(n, _)| !self.program.slots.iter().any(|s| s.name == *n)) {
            let names: Vec<_> = self.program.slots.iter().map(|s| s.name).collect();
            return Err(Error::tensor(op, *name, format!("one of {}", names.join(", ")), "a tensor it does not use"));
        }
        // WebGPU refuses a buffer both read and written in one dispatch, even where the ranges are disjoint.
        for (i, slot) in self.program.slots.iter().enumerate() {
            for (j, other) in self.program.slots.iter().enumerate() {
                if i != j && slot.access != Access::Read && bound[i].buffer() == bound[j].buffer() {
                    let expected = format!("a buffer of its own (`{}` shares it)", other.name);
                    return Err(Error::tensor(op, slot.name, expected, "one buffer bound twice"));
                }
            }
        }
        Ok(bound)
    }
}

fn describe(slot: &Slot) -> String {
    match slot.parts.as_slice() {
        [only] => format!("{} {}", slot.dtype, only.shape),
        parts => {
            let names: Vec<_> = parts.iter().map(|p| format!("{} {}", p.name, p.shape)).collect();
            let count = slot.checked_count().unwrap_or(u64::MAX);
            format!("{} of {count} elements, packed from {}", slot.dtype, names.join(" and "))
        }
    }
}

/// Whether a kernel's declaration and a step's operands agree.
pub fn operands_fit(program: &Program) -> bool {
    program.steps.iter().all(|step| {
        step.operands.len() == step.kernel.bindings.len()
            && step.params.len() == step.kernel.params_size
            && step.params.len() as u64 <= UNIFORM_STRIDE
            && step.operands.iter().zip(step.kernel.bindings).all(|(operand, (_, bind))| match operand {
                Operand::Slot(i) | Operand::Part { slot: i, .. } => {
                    program.slots.get(*i).is_some_and(|s| *bind == Bind::Read || s.access != Access::Read)
                }
                Operand::Workspace(i) => i < &program.workspace.len(),
            })
    })
}
