//! A plan is an operator at a shape on a device: limits are checked, pipelines built, long steps split into dispatches.

use std::sync::Arc;

use super::buffer;
use super::context::Context;
use super::grid::{self, Dispatch};
use super::pipeline::{Pipeline, pop};
use super::program::{Cost, Operand, Program, Scratch, Step, check_indices};
use super::recording::{Recorded, Recording};
use super::shader::{self, Bind, Binding};
use super::workspace::Workspace;
use crate::error::Error;
use crate::tensor::{Access, Slot, Tensor};

/// Alignment of a uniform in its buffer, in bytes: the most that a device may ask for.
const UNIFORM_ALIGN: usize = 256;

/// Bytes of the uniform buffer that a uniform of this size takes.
fn uniform_space(size: usize) -> usize {
    size.next_multiple_of(UNIFORM_ALIGN)
}

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
                    Operand::Workspace(_) | Operand::Counters => continue,
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
        // No pipeline reports that the device is lost.
        ctx.check_lost()?;
        Ok(Self { ctx: ctx.clone(), program, steps })
    }

    /// Tensors to bind, in order, with their exact shapes and dtypes.
    pub fn slots(&self) -> &[Slot] {
        &self.program.slots
    }

    /// The device that it was made on.
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    /// Grows a workspace to what [`Plan::bind`] needs.
    ///
    /// # Errors
    /// The errors of [`Workspace::reserve`].
    pub fn reserve(&self, workspace: &mut Workspace) -> Result<(), Error> {
        workspace.reserve(&self.ctx, &self.program.workspace).map(drop)
    }

    /// Workspace to reserve before [`Plan::bind`].
    pub fn workspace(&self) -> &[Scratch] {
        &self.program.workspace
    }

    /// The program of this plan: chosen algorithm, steps and costs.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Work of one run.
    pub fn cost(&self) -> Cost {
        self.program.cost()
    }

    /// Binds tensors by name. Uses neither the queue nor an encoder.
    ///
    /// # Errors
    /// [`Error::Missing`] or [`Error::Tensor`] naming the tensor: not given, of another shape or dtype, or an output
    /// whose buffer is also bound elsewhere, or of another device; [`Error::Workspace`] if the workspace was not reserved,
    /// [`Error::Setting`] if it is of another context, [`Error::Device`] if the device is lost.
    pub fn bind(&self, tensors: &[(&str, &Tensor)], workspace: &Workspace) -> Result<Recording, Error> {
        let bound = self.match_slots(tensors)?;
        if workspace.is_foreign(&self.ctx) {
            let (expected, found) =
                ("one of the plan's context", "one of another context (clone a Context to share it)");
            return Err(Error::setting(self.program.op, "workspace", expected, found));
        }
        for (i, scratch) in self.program.workspace.iter().enumerate() {
            let has = workspace.buffers().get(i).map_or(0, wgpu::Buffer::size);
            if has < scratch.bytes {
                let (op, workspace) = (self.program.op, scratch.name);
                return Err(Error::Workspace { op, workspace, needed: scratch.bytes, found: has });
            }
        }
        let device = self.ctx.device();
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let uniforms = self.uniforms(&bound)?;
        // A new buffer is all zeros.
        let counters = match 4 * self.program.counters as u64 {
            0 => None,
            bytes => Some(buffer::make(&self.ctx, "counters", bytes, wgpu::BufferUsages::STORAGE)?),
        };
        let mut recorded = Vec::new();
        // Bytes of the uniforms of the dispatches before this one.
        let mut at = 0;
        for (step, (pipeline, dispatches)) in self.program.steps.iter().zip(&self.steps) {
            let pipeline = &match &step.narrow {
                Some(spec) if self.has_odd_strides(step, &bound) => {
                    let caps = self.ctx.caps();
                    let checked = caps.shader_checks || !self.program.trusted();
                    self.ctx.kernels().get(device, caps, step.kernel, spec, checked)?
                }
                _ => pipeline.clone(),
            };
            for (part, dispatch) in dispatches.iter().enumerate() {
                let mut entries = Vec::new();
                for bytes in [&step.params, &step.own].into_iter().filter(|bytes| !bytes.is_empty()) {
                    entries.push(wgpu::BindGroupEntry {
                        binding: entries.len() as u32,
                        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                            buffer: &uniforms,
                            offset: at as u64,
                            size: std::num::NonZeroU64::new(bytes.len() as u64),
                        }),
                    });
                    at += uniform_space(bytes.len());
                }
                for operand in &step.operands {
                    let (buffer, offset, size) = match *operand {
                        Operand::Slot(slot) => whole(&bound[slot]),
                        Operand::Part { slot, .. } if bound[slot].tensor.strides().is_some() => whole(&bound[slot]),
                        Operand::Part { slot, first, count } => {
                            let size = self.program.slots[slot].dtype.size() as u64;
                            let bytes = (count * size).next_multiple_of(4);
                            (bound[slot].tensor.buffer(), bound[slot].tensor.offset() + first * size, bytes)
                        }
                        Operand::Workspace(slot) => {
                            // The buffer has so many bytes, and kernels that load four numbers at once reach no fewer.
                            let size = self.program.workspace[slot].bytes.max(16).next_multiple_of(16);
                            (&workspace.buffers()[slot], 0, size)
                        }
                        Operand::Counters => match &counters {
                            Some(counters) => (counters, 0, counters.size()),
                            None => continue,
                        },
                    };
                    entries.push(wgpu::BindGroupEntry {
                        binding: entries.len() as u32,
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
            return Err(self.refused(&bound, &error));
        }
        self.ctx.check_lost()?;
        Ok(Recording::new(self.program.op, recorded))
    }

    /// Whether a strided tensor of this step has a stride, or a start in its binding, that is no multiple of four elements.
    fn has_odd_strides(&self, step: &Step, bound: &[Bound<'_>]) -> bool {
        step.strided.iter().any(|strided| {
            let (Operand::Slot(slot) | Operand::Part { slot, .. }) = step.operands[strided.operand] else {
                return false;
            };
            let Bound { tensor, before } = bound[slot];
            tensor.strides().is_some_and(|strides| {
                // The last axis is contiguous, and a stride along an axis of length 1 is not used.
                let leading = tensor.shape().rank().saturating_sub(1);
                let mut axes = tensor.shape().dims().iter().zip(strides).take(leading);
                !before.is_multiple_of(4) || axes.any(|(length, stride)| *length > 1 && !stride.is_multiple_of(4))
            })
        })
    }

    /// What the device did not bind: the first tensor that it does not bind alone either, or all it said.
    fn refused(&self, bound: &[Bound<'_>], error: &wgpu::Error) -> Error {
        let device = self.ctx.device();
        for (slot, bound) in self.program.slots.iter().zip(bound) {
            let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
            let ty = wgpu::BufferBindingType::Storage { read_only: true };
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(slot.name),
                entries: &[wgpu::BindGroupLayoutEntry {
                    binding: 0,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                    count: None,
                }],
            });
            let buffer = bound.tensor.buffer();
            let size = std::num::NonZeroU64::new(buffer.size().min(16) / 4 * 4);
            let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size });
            let _ = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(slot.name),
                layout: &layout,
                entries: &[wgpu::BindGroupEntry { binding: 0, resource }],
            });
            if pop(scope).is_some() {
                let (expected, found) = ("a buffer of the plan's device", "a destroyed one, or one of another device");
                return Error::tensor(self.program.op, slot.name, expected, found);
            }
        }
        Error::device(format!("{}: {error}", self.program.op))
    }

    /// One buffer with the uniforms of all dispatches. It is filled while mapped, so the queue is not used.
    fn uniforms(&self, bound: &[Bound<'_>]) -> Result<wgpu::Buffer, Error> {
        let mut bytes = Vec::new();
        for (step, (_, dispatches)) in self.program.steps.iter().zip(&self.steps) {
            for dispatch in dispatches {
                let mut params = step.params.clone();
                let grid = bytemuck::bytes_of(&dispatch.grid);
                params[..grid.len()].copy_from_slice(grid);
                for strided in &step.strided {
                    let (Operand::Slot(slot) | Operand::Part { slot, .. }) = step.operands[strided.operand] else {
                        continue;
                    };
                    let Bound { tensor, before } = bound[slot];
                    if let Some(strides) = tensor.strides() {
                        let strides = strided.uniform(strides, before);
                        params[strided.at..][..16].copy_from_slice(bytemuck::bytes_of(&strides));
                    }
                }
                for uniform in [&params, &step.own] {
                    bytes.extend(uniform);
                    bytes.resize(uniform_space(bytes.len()), 0);
                }
            }
        }
        bytes.resize(bytes.len().max(UNIFORM_ALIGN), 0);
        buffer::filled(&self.ctx, "uniforms", &bytes, wgpu::BufferUsages::UNIFORM)
    }

    fn match_slots<'t>(&self, tensors: &[(&str, &'t Tensor)]) -> Result<Vec<Bound<'t>>, Error> {
        let op = self.program.op;
        let mut bound: Vec<Bound<'_>> = Vec::with_capacity(self.program.slots.len());
        for (i, slot) in self.program.slots.iter().enumerate() {
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
                [_] => slot.shape() == *tensor.shape(),
                _ => Some(tensor.shape().count() as u64) == slot.checked_count(),
            };
            if !fits || tensor.dtype() != slot.dtype {
                let found = format!("{} {}", tensor.dtype(), tensor.shape());
                return Err(Error::tensor(op, slot.name, describe(slot), found));
            }
            if tensor.is_foreign(self.ctx.origin()) {
                let expected = "a tensor of the plan's context";
                let found = "one of another context (clone a Context to share it)";
                return Err(Error::tensor(op, slot.name, expected, found));
            }
            bound.push(Bound { tensor, before: self.check_strides(i, tensor)? });
        }
        if let Some((name, _)) = tensors.iter().find(|(n, _)| !self.program.slots.iter().any(|s| s.name == *n)) {
            let names: Vec<_> = self.program.slots.iter().map(|s| s.name).collect();
            return Err(Error::tensor(op, *name, format!("one of {}", names.join(", ")), "a tensor it does not use"));
        }
        // WebGPU refuses a buffer that is read and written in one dispatch, even if the ranges are disjoint.
        for (i, slot) in self.program.slots.iter().enumerate() {
            for (j, other) in self.program.slots.iter().enumerate() {
                if i != j && slot.access != Access::Read && bound[i].tensor.buffer() == bound[j].tensor.buffer() {
                    let expected = format!("a buffer of its own (`{}` shares it)", other.name);
                    return Err(Error::tensor(op, slot.name, expected, "one buffer bound twice"));
                }
            }
        }
        Ok(bound)
    }

    /// Refuses a tensor with strides where a kernel takes none. Returns how many elements in front of its first one a binding
    /// has to start, which must be aligned.
    fn check_strides(&self, slot: usize, tensor: &Tensor) -> Result<u64, Error> {
        let Some(strides) = tensor.strides() else { return Ok(0) };
        let (op, name) = (self.program.op, self.program.slots[slot].name);
        let refuse = |expected: &str| {
            let found = format!("{} with strides {strides:?} from byte {} on", tensor.shape(), tensor.offset());
            Err(Error::tensor(op, name, expected, found))
        };
        for step in &self.program.steps {
            for (i, operand) in step.operands.iter().enumerate() {
                match *operand {
                    Operand::Slot(s) | Operand::Part { slot: s, .. } if s != slot => continue,
                    Operand::Workspace(_) | Operand::Counters => continue,
                    Operand::Part { first, count, .. }
                        if first > 0 || Some(count) != self.program.slots[slot].checked_count() =>
                    {
                        return refuse("a contiguous tensor, since it is bound in parts at this size");
                    }
                    Operand::Slot(_) | Operand::Part { .. } => {}
                }
                if tensor.shape().rank() != 4 || !step.strided.iter().any(|strided| strided.operand == i) {
                    return refuse("a contiguous tensor that starts on a multiple of 256 bytes");
                }
            }
        }
        if self.program.slots[slot].access != Access::Read && !tensor.is_disjoint() {
            return refuse("strides that keep the elements of an output apart");
        }
        let limits = &self.ctx.caps().limits;
        let before = tensor.offset() % u64::from(limits.min_storage_buffer_offset_alignment);
        let size = tensor.dtype().size() as u64;
        let (needed, limit) = (before + tensor.binding_bytes(), limits.max_storage_buffer_binding_size);
        if needed > limit {
            let what = format!("tensor `{name}` (bytes from its first element to its last)");
            return Err(Error::Limit { op: op.into(), what, needed, limit });
        }
        let (needed, limit) = (needed / size, u64::from(u32::MAX));
        if needed > limit {
            let what = format!("tensor `{name}` (elements from its first to its last)");
            return Err(Error::Limit { op: op.into(), what, needed, limit });
        }
        Ok(before / size)
    }
}

/// A tensor of a slot, and how many elements in front of its first one its binding starts.
#[derive(Clone, Copy)]
struct Bound<'t> {
    tensor: &'t Tensor,
    before: u64,
}

/// The binding of a whole tensor: buffer, offset, bytes.
fn whole<'t>(bound: &Bound<'t>) -> (&'t wgpu::Buffer, u64, u64) {
    let Bound { tensor, before } = *bound;
    let offset = tensor.offset() - before * tensor.dtype().size() as u64;
    (tensor.buffer(), offset, (tensor.offset() - offset + tensor.span_bytes()).next_multiple_of(4))
}

fn describe(slot: &Slot) -> String {
    match slot.parts.as_slice() {
        [_] => format!("{} {}", slot.dtype, slot.shape()),
        parts => {
            let names: Vec<_> = parts.iter().map(|p| format!("{} {}", p.name, p.shape)).collect();
            let count = slot.checked_count().unwrap_or(u64::MAX);
            format!("{} of {count} elements, packed from {}", slot.dtype, names.join(" and "))
        }
    }
}

/// Whether the operands of every step agree with the declaration of its kernel.
pub fn operands_fit(program: &Program) -> bool {
    program.steps.iter().all(|step| {
        let bindings = shader::bindings(step.kernel, &step.spec);
        step.operands.len() == bindings.len()
            && step.params.len() == step.kernel.params.size
            && step.own.len() == step.spec.own.map_or(0, |own| own.size)
            && step.operands.iter().zip(bindings).all(|(operand, Binding { bind, .. })| match operand {
                Operand::Slot(i) | Operand::Part { slot: i, .. } => {
                    program.slots.get(*i).is_some_and(|s| bind == Bind::Read || s.access != Access::Read)
                }
                Operand::Workspace(i) => i < &program.workspace.len(),
                Operand::Counters => program.counters > 0,
            })
    })
}
