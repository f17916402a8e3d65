//! The runs that a recurrence consists of: along the tokens, against them, or both, whose outputs are added.
//!
//! A run against the tokens has negative strides from token to token. Outputs of the second run are added to those of
//! the first: in o itself if it is stored in f32, otherwise in the workspace, from where they are rounded once.

use std::mem::offset_of;

use super::Params;
use crate::cores::rows::{OUTPUTS_F32, OUTPUTS_STORED};
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Operand, Scratch, Step, backward};
use crate::gpu::shader::{Fragment, Kernel, Variant, params};
use crate::operator::mode::{Direction, Mode};
use crate::operator::qkv::{Qkv, Strides};
use crate::tensor::DType;

params! {
    /// Must match `struct Params` in `shaders/cores/recurrence/round.wgsl`.
    pub(crate) struct Rounding {
        grid: Grid,
        heads: u32,
        dim: u32,
        elements: u32,
        blocks: u32,
        sums: Strides,
        pub(crate) o: Strides,
    }
}

/// One run over the tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Run {
    /// Whether it takes the tokens from the last to the first.
    pub(crate) backward: bool,
    /// Whether its outputs are added to those of the run before it.
    pub(crate) summed: bool,
}

impl Run {
    /// The uniform of this run.
    pub(crate) fn params(self, params: Params) -> Params {
        if !self.backward {
            return params;
        }
        let turn = |strides| backward(strides, params.keys - 1);
        let Params { q, k, v, o, g, beta, q_factor, k_factor, .. } = params;
        let [q, k, v, o, g, beta, q_factor, k_factor] = [q, k, v, o, g, beta, q_factor, k_factor].map(turn);
        Params { q, k, v, o, g, beta, q_factor, k_factor, ..params }
    }

    /// Says of steps with strided operands that they take the tokens in the order of this run.
    pub(crate) fn strided(self, mut steps: Vec<Step>, s: &Qkv) -> Vec<Step> {
        for strided in steps.iter_mut().flat_map(|step| &mut step.strided) {
            strided.backward_from = self.backward.then_some(s.keys as u32 - 1);
        }
        steps
    }

    /// Bytes of the outputs of an earlier run that this run adds to its own.
    pub(crate) fn bytes_added(self, runs: &Runs<'_>) -> f64 {
        if self.summed { runs.output_bytes() } else { 0.0 }
    }
}

/// The runs of a recurrence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Runs<'a> {
    qkv: &'a Qkv,
    direction: Direction,
}

impl<'a> Runs<'a> {
    pub(crate) fn new(qkv: &'a Qkv, mode: &Mode) -> Self {
        Self { qkv, direction: mode.direction }
    }

    /// The runs, in order.
    pub(crate) fn all(&self) -> Vec<Run> {
        let run = |backward, summed| Run { backward, summed };
        match self.direction {
            Direction::Forward => vec![run(false, false)],
            Direction::Backward => vec![run(true, false)],
            Direction::Both => vec![run(false, false), run(true, true)],
        }
    }

    /// Whether the outputs of the runs are added in the workspace.
    pub(crate) fn in_workspace(&self) -> bool {
        self.direction == Direction::Both && self.qkv.dtype == DType::F16
    }

    /// The workspace in which outputs are added.
    pub(crate) fn scratch(&self) -> Option<Scratch> {
        let bytes = || (self.qkv.elements()[3] * 4.0) as u64;
        self.in_workspace().then(|| Scratch { name: "sums of outputs", bytes: bytes() })
    }

    /// The element type of the outputs that the kernels write.
    pub(crate) fn outputs(&self) -> Fragment {
        if self.in_workspace() { OUTPUTS_F32 } else { OUTPUTS_STORED }
    }

    /// Bytes of the outputs that the kernels of one run write.
    pub(crate) fn output_bytes(&self) -> f64 {
        let size = if self.in_workspace() { DType::F32 } else { self.qkv.dtype }.size();
        self.qkv.elements()[3] * size as f64
    }

    /// Rounds the outputs that are added in the workspace, if they are: adds the dispatch and the buffer of the sums.
    /// `o` is the slot of the outputs; `strided` says whether it may be a strided tensor.
    pub(crate) fn round(
        &self,
        kernel: &'static Kernel,
        o: usize,
        strided: bool,
        steps: &mut Vec<Step>,
        workspace: &mut Vec<Scratch>,
    ) {
        let Some(scratch) = self.scratch() else { return };
        let (sums, outputs) = (Operand::Workspace(workspace.len()), Operand::Slot(o));
        workspace.push(scratch);
        let s = self.qkv;
        let own = s.strides()[3];
        let elements = s.queries * s.dim_v;
        let params = Rounding {
            heads: s.heads as u32,
            dim: s.dim_v as u32,
            elements: elements as u32,
            blocks: elements.div_ceil(64) as u32,
            sums: own,
            o: own,
            ..Rounding::default()
        };
        let cost = Cost {
            bytes_read: self.output_bytes(),
            bytes_written: s.elements()[3] * s.dtype.size() as f64,
            ..Cost::default()
        };
        let groups = (s.batch * s.heads) as u64 * u64::from(params.blocks);
        let spec = Variant::new(s.dtype, vec![], vec![]);
        let step = Step::new(kernel, spec, &params, &[("sums", sums), ("o", outputs)], groups, cost);
        let strides = [(o, offset_of!(Rounding, o))];
        steps.extend(s.strided(vec![step], if strided { &strides } else { &[] }));
    }
}
