//! Scratch memory of plans: one grow-only buffer per slot, reused from run to run and plan to plan.
//!
//! A set of buffers, never one arena: WebGPU refuses one buffer bound both to read and to write in a dispatch, even for
//! disjoint ranges.

use super::buffer;
use super::context::Context;
use super::program::Scratch;
use crate::error::Error;

/// Buffers for one plan at a time. Contents do not survive from one run to the next.
#[derive(Debug, Default)]
pub struct Workspace {
    buffers: Vec<wgpu::Buffer>,
}

impl Workspace {
    /// No buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grows to what a plan needs. Returns whether a buffer was replaced: recordings bound before keep the old ones
    /// alive and stay valid, but to save memory should be bound again.
    ///
    /// # Errors
    /// [`Error::Limit`] if a buffer passes what the device allows, [`Error::Device`] if there is no memory for it.
    pub fn reserve(&mut self, ctx: &Context, slots: &[Scratch]) -> Result<bool, Error> {
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

    /// The buffers, in the order of the plan's slots.
    pub fn buffers(&self) -> &[wgpu::Buffer] {
        &self.buffers
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(wgpu::Buffer::size).sum()
    }
}
