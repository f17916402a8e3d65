//! A recording is a plan bound to tensors. It only records into the caller's encoder or pass.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::pipeline::Pipeline;
use super::program::Cost;
use super::timing::Timer;

/// One dispatch, resolved.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) label: String,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) group: wgpu::BindGroup,
    pub(super) groups: [u32; 3],
    pub(super) cost: Cost,
}

/// A plan bound to tensors. It can be encoded any number of times and keeps its buffers alive. Encoding cannot fail and
/// uses neither the queue nor the device.
#[derive(Debug)]
#[must_use = "a recording does nothing until it is encoded"]
pub struct Recording {
    op: &'static str,
    steps: Vec<Recorded>,
}

/// One dispatch of a recording, for people and tests.
#[derive(Debug, Clone, PartialEq)]
pub struct StepInfo<'a> {
    /// Kernel and specialisation.
    pub label: &'a str,
    /// Workgroups.
    pub groups: [u32; 3],
    /// Invocations in a workgroup.
    pub workgroup: [u32; 3],
    /// Work of this dispatch.
    pub cost: Cost,
}

impl Recording {
    pub(super) fn new(op: &'static str, steps: Vec<Recorded>) -> Self {
        Self { op, steps }
    }

    /// Operator's name.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// Number of dispatches.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether it has no dispatches.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Records all dispatches in one compute pass.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        self.encode_range(encoder, 0..self.steps.len());
    }

    /// Records some of the dispatches in one compute pass. A schedule uses this to keep submissions short.
    pub fn encode_range(&self, encoder: &mut wgpu::CommandEncoder, range: Range<usize>) {
        let mut pass =
            encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some(self.op), timestamp_writes: None });
        self.encode_range_in(&mut pass, range);
    }

    /// Records into the caller's pass. Sets the pipeline and bind group 0.
    pub fn encode_in(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.encode_range_in(pass, 0..self.steps.len());
    }

    /// Records some of the dispatches into the caller's pass.
    pub fn encode_range_in(&self, pass: &mut wgpu::ComputePass<'_>, range: Range<usize>) {
        for step in &self.steps[range] {
            step.dispatch(pass);
        }
    }

    /// Records one compute pass per dispatch, each timed. Dispatches past the timer's capacity are recorded untimed.
    pub fn encode_timed(&self, encoder: &mut wgpu::CommandEncoder, timer: &mut Timer) {
        for step in &self.steps {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some(&step.label),
                timestamp_writes: timer.stamp(&step.label),
            });
            step.dispatch(&mut pass);
        }
    }

    /// The dispatches, in order.
    pub fn steps(&self) -> impl Iterator<Item = StepInfo<'_>> {
        self.steps.iter().map(|s| StepInfo {
            label: &s.label,
            groups: s.groups,
            workgroup: s.pipeline.workgroup,
            cost: s.cost,
        })
    }

    /// Work of all dispatches.
    pub fn cost(&self) -> Cost {
        self.steps.iter().map(|s| s.cost).sum()
    }
}

impl Recorded {
    fn dispatch(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.raw);
        pass.set_bind_group(0, &self.group, &[]);
        let [x, y, z] = self.groups;
        pass.dispatch_workgroups(x, y, z);
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in self.steps() {
            let [x, y, z] = step.groups;
            let [i, j, k] = step.workgroup;
            writeln!(
                f,
                "{}: {x}x{y}x{z} groups of {i}x{j}x{k}, {:.3} MFLOP, {:.3} MB",
                step.label,
                step.cost.flops / 1e6,
                step.cost.bytes() / 1e6
            )?;
        }
        Ok(())
    }
}
