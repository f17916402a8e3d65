//! Timestamps around passes, written by the GPU into the caller's encoder and resolved at the edge.

use super::buffer;
use super::context::Context;

/// Seconds that something took, several times over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// A tenth are below.
    pub p10: f64,
    /// Half are below.
    pub median: f64,
    /// Nine tenths are below.
    pub p90: f64,
    /// How many there were.
    pub count: usize,
}

impl Spread {
    /// Of these times; `None` of none. Between two of them a percentile is their weighted mean.
    pub fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_unstable_by(f64::total_cmp);
        let last = seconds.len().checked_sub(1)?;
        let at = |share: f64| {
            let (whole, part) = ((share * last as f64) as usize, (share * last as f64).fract());
            seconds[whole] * (1.0 - part) + seconds[(whole + 1).min(last)] * part
        };
        Some(Self { min: seconds[0], p10: at(0.1), median: at(0.5), p90: at(0.9), count: seconds.len() })
    }

    /// Every number times this.
    pub fn scaled(self, factor: f64) -> Self {
        let Self { min, p10, median, p90, count } = self;
        Self { min: min * factor, p10: p10 * factor, median: median * factor, p90: p90 * factor, count }
    }
}

/// One timing of a schedule: seconds from the first stamp to the last and on the host's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lap {
    /// By the GPU's stamps; `None` without timestamps or where they were rejected.
    pub gpu: Option<f64>,
    /// Whether the driver gave zero or an end before the start.
    pub rejected: bool,
    /// Passes that were timed; each has stamps of its own.
    pub passes: usize,
    /// From submission to the end of waiting.
    pub wall: f64,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        assert_eq!(Spread::of(vec![]), None);
        let one = Spread::of(vec![3.0]).unwrap();
        assert_eq!((one.min, one.p10, one.median, one.p90, one.count), (3.0, 3.0, 3.0, 3.0, 1));
        let spread = Spread::of((0..=20).rev().map(f64::from).collect()).unwrap();
        assert_eq!((spread.min, spread.p10, spread.median, spread.p90, spread.count), (0.0, 2.0, 10.0, 18.0, 21));
        assert_eq!(Spread::of(vec![4.0, 2.0]).unwrap().median, 3.0);
        assert_eq!(spread.scaled(2.0).median, 20.0);
    }
}
