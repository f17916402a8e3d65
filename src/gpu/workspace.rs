//! Scratch memory of plans: one grow-only buffer per slot, reused by later runs and by other plans.
//!
//! It is a set of buffers and not one arena, because WebGPU refuses a buffer that is bound to read and to write in one
//! dispatch, even if the ranges are disjoint.

use super::buffer;
use super::context::Context;
use super::program::Scratch;
use crate::error::Error;
use crate::tensor::Origin;

/// Buffers for one plan at a time. Their contents are undefined at the start of a run.
#[derive(Debug, Default)]
pub struct Workspace {
    buffers: Vec<wgpu::Buffer>,
    /// The context that made them.
    origin: Option<Origin>,
}

impl Workspace {
    /// A workspace without buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grows to the size that a plan needs. Returns whether a buffer was replaced. Recordings bound before keep the old
    /// buffers alive and stay valid; bind them again to free that memory.
    ///
    /// # Errors
    /// [`Error::Limit`] if a buffer passes what the device allows, [`Error::Device`] if there is no memory for it,
    /// [`Error::Setting`] if it has buffers of another context.
    pub fn reserve(&mut self, ctx: &Context, slots: &[Scratch]) -> Result<bool, Error> {
        if self.is_foreign(ctx) {
            return Err(Error::setting("workspace", "reserve", "the context of its buffers", "another context"));
        }
        self.origin = Some(ctx.origin().clone());
        let most = ctx.caps().largest_binding();
        let mut grew = false;
        for (i, slot) in slots.iter().enumerate() {
            let size = slot.bytes.max(16).next_multiple_of(16);
            if size > most {
                let what = format!("workspace `{}` (bytes)", slot.name);
                return Err(Error::Limit { op: "workspace".into(), what, needed: size, limit: most });
            }
            if self.buffers.get(i).is_some_and(|b| b.size() >= size) {
                continue;
            }
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
            let buffer = buffer::make(ctx, slot.name, size, usage)?;
            if i < self.buffers.len() {
                self.buffers[i] = buffer;
                grew = true;
            } else {
                self.buffers.push(buffer);
            }
        }
        Ok(grew)
    }

    /// Whether its buffers are of another context.
    pub(super) fn is_foreign(&self, ctx: &Context) -> bool {
        self.origin.as_ref().is_some_and(|origin| origin != ctx.origin())
    }

    /// The buffers, in the order of the plan's slots.
    pub fn buffers(&self) -> &[wgpu::Buffer] {
        &self.buffers
    }

    /// Total bytes of the buffers.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(wgpu::Buffer::size).sum()
    }
}
