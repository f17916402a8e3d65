//! GPU timestamps around passes. They are recorded into the caller's encoder and read by [`readback`](super::readback).

use super::buffer;
use super::context::Context;

/// Distribution of several measured times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Minimum.
    pub min: f64,
    /// 10th percentile.
    pub p10: f64,
    /// Median.
    pub median: f64,
    /// 90th percentile.
    pub p90: f64,
    /// Number of times.
    pub count: usize,
}

impl Spread {
    /// Percentiles by linear interpolation; `None` if `seconds` is empty.
    pub fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_unstable_by(f64::total_cmp);
        let last = seconds.len().checked_sub(1)?;
        let at = |share: f64| {
            let (whole, part) = ((share * last as f64) as usize, (share * last as f64).fract());
            seconds[whole] * (1.0 - part) + seconds[(whole + 1).min(last)] * part
        };
        Some(Self { min: seconds[0], p10: at(0.1), median: at(0.5), p90: at(0.9), count: seconds.len() })
    }

    /// All times multiplied by a factor.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        let Self { min, p10, median, p90, count } = self;
        Self { min: min * factor, p10: p10 * factor, median: median * factor, p90: p90 * factor, count }
    }
}

/// One timing of a schedule, in seconds: by timestamps and by the host's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lap {
    /// By GPU timestamps; `None` if there are none or if they were rejected.
    pub gpu: Option<f64>,
    /// Whether timestamps were rejected because they were zero or ran backwards.
    pub rejected: bool,
    /// Number of timed passes. Each has its own timestamps.
    pub passes: usize,
    /// From the submission to the end of the wait.
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
    /// Nanoseconds; `None` if a timestamp was zero or the end was before the start.
    pub nanoseconds: Option<f64>,
}

impl Timer {
    /// A timer for `passes` passes; `None` if the device has no timestamps, not enough of them, or no memory for them.
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

    /// Where the next pass writes its timestamps; `None` if all pairs are used.
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

    /// Records the copy of all timestamps into a buffer. Call it once, after the timed passes.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        if !self.labels.is_empty() {
            encoder.resolve_query_set(&self.queries, 0..self.labels.len() as u32 * 2, &self.resolved, 0);
        }
    }

    /// The buffer of resolved timestamps, for [`readback`](super::readback).
    pub(super) fn resolved(&self) -> &wgpu::Buffer {
        &self.resolved
    }

    /// Spans from the timestamps that were read back. `period` is in nanoseconds per tick.
    pub(super) fn spans(&self, stamps: &[u64], period: f32) -> Vec<Span> {
        self.labels
            .iter()
            .zip(stamps.chunks_exact(2))
            .map(|(label, pair)| Span {
                label: label.clone(),
                // Broken drivers return zeros or an end before the start. Such pairs are rejected.
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
