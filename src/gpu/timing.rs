//! Timestamps around passes, written by the GPU into the caller's encoder and resolved at the edge.

use super::buffer;
use super::context::Context;

/// A set of timestamp pairs, one per pass.
#[derive(Debug)]
pub struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    capacity: usize,
    labels: Vec<String>,
}

/// Time of one pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Label given to [`Timer::stamp`].
    pub label: String,
    /// Nanoseconds; `None` where the driver gave zero or an end before the start.
    pub nanoseconds: Option<f64>,
}

impl Timer {
    /// A timer for `passes` passes; `None` where the device has no timestamps, not so many, or no memory for them.
    pub fn new(ctx: &Context, passes: usize) -> Option<Self> {
        if !ctx.caps().timestamps || passes == 0 || passes * 2 > wgpu::QUERY_SET_MAX_QUERIES as usize {
            return None;
        }
        let count = passes as u32 * 2;
        let queries = ctx.device().create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timer"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = buffer::make(ctx, "timer", u64::from(count) * 8, usage).ok()?;
        Some(Self { queries, resolved, capacity: passes, labels: Vec::new() })
    }

    /// Where the next pass writes its times; `None` when all pairs are used.
    pub fn stamp(&mut self, label: &str) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        if self.labels.len() == self.capacity {
            return None;
        }
        let first = self.labels.len() as u32 * 2;
        self.labels.push(label.to_owned());
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Records the copy of all stamps into a buffer; call it once, behind the timed passes.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        if !self.labels.is_empty() {
            encoder.resolve_query_set(&self.queries, 0..self.labels.len() as u32 * 2, &self.resolved, 0);
        }
    }

    /// The buffer of resolved stamps, for [`readback`](super::readback).
    pub(super) fn resolved(&self) -> &wgpu::Buffer {
        &self.resolved
    }

    /// Spans from the stamps read back. `period` is nanoseconds a tick.
    pub(super) fn spans(&self, stamps: &[u64], period: f32) -> Vec<Span> {
        self.labels
            .iter()
            .zip(stamps.chunks_exact(2))
            .map(|(label, pair)| Span {
                label: label.clone(),
                // Zero stamps and ends before starts are what broken drivers give: rejected, never averaged in.
                nanoseconds: (pair[0] != 0 && pair[1] > pair[0])
                    .then(|| (pair[1] - pair[0]) as f64 * f64::from(period)),
            })
            .collect()
    }
}
