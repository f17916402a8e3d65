//! Builds the GPU program of a configuration: uniforms, workspace and dispatches. Pure: no wgpu type.
//!
//! Without a stage before or after the softmax it is the attention core. Otherwise heads that are not mixed have
//! workgroups of their own (`tiles.rs`), and heads that are mixed share them (`mixed.rs`). If the softmax is the last
//! stage of the weights, one pass with a running maximum and sum is enough. Otherwise, a first pass writes the maximum
//! and the sum of every row, and a second pass computes the scores again.
//!
//! Workspace: with a stage after the softmax, 8 bytes per head and row. The rows are those of q and, with a carried
//! state, the `cq_post - 1` rows before them. If few queries see many keys, workgroups share the keys; then each share
//! of the keys adds 8 bytes, and E + 4 numbers for each query. No buffer has the size of queries times keys.

use std::mem::offset_of;

use super::{Config, Gates, MAX_GATE, NAME, NORM_EPS, Taps, mixed, tiles};
use crate::cores::attention::split_k::MOST_SPLITS;
use crate::cores::attention::{self, Attention, Extras, FINAL, NO_SQUARES, PROOF, SCALED};
use crate::cores::rows::{self, OUTPUTS_STORED};
use crate::error::Error;
use crate::gpu::Caps;
use crate::gpu::grid::Grid;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_indices, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment, params};
use crate::operator::qkv::Qkv;
use crate::operator::qkv::{STRIDES_SOURCE, Strides, check_lengths};

params! {
    /// Must match `struct Params` in `shaders/mta/types.wgsl`.
    pub(super) struct Params {
        pub(super) grid: Grid,
        pub(super) queries: u32,
        pub(super) keys: u32,
        pub(super) heads: u32,
        pub(super) kv_heads: u32,
        pub(super) dim_k: u32,
        pub(super) dim_v: u32,
        pub(super) tail: u32,
        pub(super) rows_before: u32,
        pub(super) pre_queries: u32,
        pub(super) pre_keys: u32,
        pub(super) post_queries: u32,
        pub(super) post_keys: u32,
        pub(super) kq_pre: u32,
        pub(super) kq_post: u32,
        pub(super) head_pre: u32,
        pub(super) head_post: u32,
        pub(super) norm: u32,
        pub(super) gate_weight: u32,
        pub(super) gate_bias: u32,
        pub(super) group: u32,
        pub(super) head_blocks: u32,
        pub(super) row_blocks: u32,
        pub(super) col_splits: u32,
        pub(super) splits: u32,
        pub(super) split_keys: u32,
        pub(super) scale: f32,
        pub(super) factor: f32,
        pub(super) norm_eps: f32,
        pub(super) shift: i32,
        pub(super) pad: u32,
        pub(super) pads: [u32; 2],
        pub(super) q: Strides,
        pub(super) k: Strides,
        pub(super) v: Strides,
        pub(super) o: Strides,
    }
}

pub(super) const TYPES: Fragment = fragment!("mta/types.wgsl");
pub(super) const SCORES: Fragment = fragment!("mta/scores.wgsl");
pub(super) const ROW_STATS: Fragment = fragment!("mta/row_stats.wgsl");
const WHOLE: Fragment = fragment!("mta/output_whole.wgsl");
const SPLIT: Fragment = fragment!("mta/output_split.wgsl");

pub(super) const fn kernel(name: &'static str, sources: &'static [Fragment], proof: &'static str) -> Kernel {
    Kernel::new(name, sources, Params::UNIFORM, Some(proof))
}

/// Why every index of the kernels that finish rows and copy queries is within bounds.
const ROWS_PROOF: &str = "rows and dimensions are below the sizes of the tensors; loops end at uniforms";

static FINISH: Kernel = kernel("mta_finish", &[STRIDES_SOURCE, TYPES, fragment!("mta/finish.wgsl")], ROWS_PROOF);

static TAIL: Kernel = kernel("mta_tail", &[STRIDES_SOURCE, TYPES, fragment!("mta/tail.wgsl")], ROWS_PROOF);

/// The attention core, without a stage before or after the softmax.
static PLAIN: [Kernel; 4] = [
    attention::tiled_kernel("mta_attention", PROOF),
    attention::split_kernel("mta_split_k"),
    attention::merge_kernel("mta_split_k_merge"),
    attention::matrix_kernel("mta_matrix"),
];

/// Bytes of workgroup memory on every device.
pub(super) const MEMORY: usize = 16384;
/// Invocations per workgroup that finishes rows or copies queries.
const LANES: usize = 64;

pub(super) const Q: Named = ("q", Operand::Slot(0));
pub(super) const K: Named = ("k", Operand::Slot(1));
pub(super) const V: Named = ("v", Operand::Slot(2));
pub(super) const O: Named = ("o", Operand::Slot(3));

/// Slots of q, k, v and o (0 to 3), with the byte offsets of their strides in [`Params`].
const STRIDES: [(usize, usize); 4] =
    [(0, offset_of!(Params, q)), (1, offset_of!(Params, k)), (2, offset_of!(Params, v)), (3, offset_of!(Params, o))];

/// Minimum work: the parts of the inputs that are seen are read once, each output is written once, and only pairs of a
/// query and a key that it sees are computed.
pub(super) fn essential(c: &Config) -> Cost {
    let base = attention::essential(&c.qkv, c.mask());
    let pairs = (c.qkv.batch * c.qkv.heads) as f64 * c.mask().pairs(&c.qkv);
    let bytes = |slot: Option<crate::tensor::Slot>| slot.and_then(|s| s.checked_bytes()).unwrap_or(0) as f64;
    let (weights, tail) = (bytes(c.weights_slot()), bytes(c.tail_slot()));
    let finish = finish_cost(c);
    Cost {
        flops: base.flops + pairs * mixing_flops(c) + finish.flops,
        exps: base.exps + finish.exps,
        bytes_read: base.bytes_read + weights + tail,
        bytes_written: base.bytes_written + tail,
    }
}

/// Flops of all convolutions and mixtures, per pair of a query and a key that it sees.
fn mixing_flops(c: &Config) -> f64 {
    let kernels: usize = [c.kq_pre, c.kq_post].iter().flatten().map(|taps| taps.queries * taps.keys).sum();
    let heads = if c.head_pre { c.qkv.heads } else { 0 } + c.head_post.unwrap_or(0);
    2.0 * (kernels + heads) as f64
}

/// Flops and exponentials of the norm and the gate.
fn finish_cost(c: &Config) -> Cost {
    let [.., o] = c.qkv.elements();
    let rows = o / c.qkv.dim_v as f64;
    let norm = if c.norm { 4.0 * o } else { 0.0 };
    let gates = c.gate.map_or(0.0, |gate| if gate.gates == Gates::Scalar { 1.0 } else { c.qkv.dim_v as f64 });
    let gate = if c.gate.is_some() { (2.0 * gates + 1.0) * o } else { 0.0 };
    Cost { flops: norm + gate, exps: rows * gates, ..Cost::default() }
}

/// What the passes over the scores of a configuration are.
pub(super) struct Parts {
    pub(super) variant: String,
    pub(super) workspace: Vec<Scratch>,
    pub(super) steps: Vec<Step>,
    /// The shapes for splitting steps.
    pub(super) units: Qkv,
}

/// Builds the dispatches for this device.
pub(super) fn program(c: &Config, caps: &Caps) -> Result<Program, Error> {
    c.validate()?;
    caps.require(NAME, c.qkv.dtype)?;
    let slots = c.slots();
    check_indices(NAME, &slots)?;
    check_lengths(NAME, &c.qkv)?;
    let layouts = Layouts { c };
    let parts = if c.plain() {
        layouts.plain(caps)?
    } else if c.head_pre || c.head_post.is_some() {
        mixed::parts(&layouts, caps)
    } else {
        tiles::parts(&layouts, caps)
    };
    check_workspace(NAME, &parts.workspace)?;
    if let Some(large) = parts.workspace.iter().find(|scratch| scratch.bytes > caps.largest_binding()) {
        let what = format!("workspace `{}` (bytes)", large.name);
        return Err(Error::Limit { op: NAME.into(), what, needed: large.bytes, limit: caps.largest_binding() });
    }
    let mut steps = Vec::new();
    for step in parts.steps.into_iter().chain(layouts.finish()).chain(layouts.keep_queries()) {
        // Kernels of the core have its uniform.
        let strides =
            if PLAIN.iter().any(|kernel| std::ptr::eq(step.kernel, kernel)) { attention::STRIDES } else { STRIDES };
        steps.extend(parts.units.cut(NAME, step, &slots, &strides, caps)?);
    }
    Ok(Program::new(NAME, parts.variant, slots, parts.workspace, steps))
}

/// Number of rows before the first query whose maxima and sums are stored.
pub(super) fn rows_before(c: &Config) -> usize {
    Taps::halo(c.kq_post).0.min(c.rows_before())
}

/// How workgroups share the keys that a block of rows sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Splits {
    /// Keys of each workgroup.
    pub(super) keys: usize,
    /// Workgroups that share them.
    pub(super) count: usize,
}

impl Splits {
    pub(super) fn describe(self) -> String {
        if self.count > 1 { format!("{} splits of the keys, ", self.count) } else { String::new() }
    }
}

/// Where the pass for the output stores: the rows that it reads and writes by fragments of its own, the fragments and the
/// buffer, and the bytes.
pub(super) struct Stores {
    pub(super) wanted: &'static [usize],
    pub(super) fragments: &'static [Fragment],
    pub(super) operand: Named,
    pub(super) bytes: f64,
}

/// A configuration, and what all its passes have in common.
pub(super) struct Layouts<'a> {
    pub(super) c: &'a Config,
}

impl Layouts<'_> {
    fn plain(&self, caps: &Caps) -> Result<Parts, Error> {
        let Program { variant, workspace, mut steps, .. } = self.attention().program(caps)?;
        // The norm and the gate take no strided tensors, and neither do other configurations.
        steps.iter_mut().for_each(|step| step.strided.clear());
        Ok(Parts { variant, workspace, steps, units: self.c.qkv })
    }

    /// The attention core, which serves without a stage before or after the softmax, and merges outputs of shared keys.
    fn attention(&self) -> Attention<'_> {
        let c = self.c;
        Attention {
            op: NAME,
            qkv: &c.qkv,
            mask: c.mask(),
            score: attention::scaled(c.effective_scale()),
            exponential: true,
            norm_eps: 0.0,
            extras: Extras::default(),
            kernels: &PLAIN,
            fragments: [&[SCALED, FINAL, NO_SQUARES], &[SCALED, FINAL]],
            overrides: vec![],
        }
    }

    /// How the keys are shared: each workgroup has all of them, unless few queries see so many that `groups` workgroups
    /// would leave the device idle. A share has at least `least` keys. The outputs of all shares must also fit into one
    /// binding.
    pub(super) fn splits(&self, groups: usize, least: usize, caps: &Caps) -> Splits {
        let s = &self.c.qkv;
        let idle = 4 * groups as u64 <= caps.full_groups;
        let few = s.queries <= 8 || (idle && s.queries <= 256 && s.keys >= 16 * s.queries);
        let keys = least.max(s.keys.div_ceil(MOST_SPLITS));
        let split = Splits { keys, count: s.keys.div_ceil(keys) };
        let fits = self.partial_bytes(split) <= caps.largest_binding();
        if few && fits && split.count > 1 { split } else { self.unsplit() }
    }

    /// Bytes of the outputs of all shares of the keys, with their maxima and sums.
    fn partial_bytes(&self, splits: Splits) -> u64 {
        let s = &self.c.qkv;
        ((s.batch * s.heads * splits.count) as u64)
            .saturating_mul(s.queries as u64)
            .saturating_mul(4 * (s.dim_v.next_multiple_of(4) as u64 + 4))
    }

    /// Where the pass for the output stores.
    pub(super) fn stores(&self, splits: Splits) -> Stores {
        let s = &self.c.qkv;
        if splits.count == 1 {
            return Stores {
                wanted: &[rows::Q, rows::K, rows::V, rows::O],
                fragments: &[WHOLE, OUTPUTS_STORED],
                operand: O,
                bytes: s.elements()[3] * s.dtype.size() as f64,
            };
        }
        Stores {
            wanted: &[rows::Q, rows::K, rows::V],
            fragments: &[SPLIT],
            operand: ("partials", self.partials()),
            bytes: self.partial_bytes(splits) as f64,
        }
    }

    /// The last buffer of the workspace.
    fn partials(&self) -> Operand {
        Operand::Workspace(1 + usize::from(self.c.post()))
    }

    /// The dispatch that merges the outputs of workgroups that share the keys, if they do.
    pub(super) fn merge(&self, splits: Splits, caps: &Caps) -> Option<Step> {
        if splits.count == 1 {
            return None;
        }
        let mut step = self.attention().merge(splits.count, caps);
        for operand in &mut step.operands {
            if matches!(operand, Operand::Workspace(_)) {
                *operand = self.partials();
            }
        }
        Some(step)
    }

    /// Scratch buffers: a few bytes that stand for tensors that are absent, maxima and sums if a stage follows the
    /// softmax, and the outputs of workgroups that share the keys.
    pub(super) fn workspace(&self, splits: Splits) -> Vec<Scratch> {
        let s = &self.c.qkv;
        let rows = s.queries as u64 + rows_before(self.c) as u64;
        let stats = ((s.batch * s.heads * splits.count) as u64).saturating_mul(rows).saturating_mul(8);
        let mut list = vec![Scratch { name: "absent", bytes: 16 }];
        list.extend(self.c.post().then_some(Scratch { name: "maxima and sums", bytes: stats }));
        let partials = Scratch { name: "partial outputs", bytes: self.partial_bytes(splits) };
        list.extend((splits.count > 1).then_some(partials));
        list
    }

    /// The operand of a tensor that may be absent. If it is, the kernel binds a few bytes of workspace instead and does
    /// not read them.
    pub(super) fn slot(&self, name: &'static str) -> Named {
        let slot = self.c.slots().iter().position(|slot| slot.name == name);
        (name, slot.map_or(Operand::Workspace(0), Operand::Slot))
    }

    /// The operand of maxima and sums.
    pub(super) fn stats(&self) -> Named {
        ("stats", Operand::Workspace(usize::from(self.c.post())))
    }

    /// The uniform, as far as it does not depend on a pass.
    pub(super) fn params(&self, splits: Splits) -> Params {
        let c = self.c;
        let s = &c.qkv;
        let weights = c.weights_slot();
        let at = |name: &str| {
            let part = weights.iter().flat_map(|slot| &slot.parts).find(|part| part.name == name);
            part.map_or(0, |part| part.offset) as u32
        };
        let taps = |taps: Option<Taps>| taps.map_or((1, 1), |taps| (taps.queries as u32, taps.keys as u32));
        let ((pre_queries, pre_keys), (post_queries, post_keys)) = (taps(c.kq_pre), taps(c.kq_post));
        let [q, k, v, o] = s.strides();
        Params {
            queries: s.queries as u32,
            keys: s.keys as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            dim_k: s.dim_k as u32,
            dim_v: s.dim_v as u32,
            tail: c.rows_before() as u32,
            rows_before: rows_before(c) as u32,
            pre_queries,
            pre_keys,
            post_queries,
            post_keys,
            kq_pre: at("kq_pre"),
            kq_post: at("kq_post"),
            head_pre: at("head_pre"),
            head_post: at("head_post"),
            norm: at("norm"),
            gate_weight: at("gate_weight"),
            gate_bias: at("gate_bias"),
            splits: splits.count as u32,
            split_keys: splits.keys as u32,
            scale: c.effective_scale(),
            factor: c.depth_factor() as f32,
            norm_eps: NORM_EPS,
            shift: c.shift() as i32,
            q,
            k,
            v,
            o,
            ..Params::default()
        }
    }

    fn unsplit(&self) -> Splits {
        Splits { keys: self.c.qkv.keys, count: 1 }
    }

    /// The norm and the gate.
    fn finish(&self) -> Option<Step> {
        let c = self.c;
        if !c.norm && c.gate.is_none() {
            return None;
        }
        let [.., o] = c.qkv.elements();
        let bytes = o * c.qkv.dtype.size() as f64;
        let reads = 1.0 + f64::from(u8::from(c.norm)) + f64::from(u8::from(self.gates() == 1));
        let cost = Cost { bytes_read: reads * bytes, bytes_written: bytes, ..finish_cost(c) };
        let rows = c.qkv.batch * c.qkv.heads * c.qkv.queries;
        // Workgroup memory for one row, rounded up to a few sizes.
        let room = [64, 256].into_iter().find(|room| c.qkv.dim_v <= *room).unwrap_or(MAX_GATE);
        let consts = vec![("ROOM", if self.gates() == 2 { room as u32 } else { 1 })];
        let overrides = vec![
            ("NORM", c.norm.into()),
            ("GATES", self.gates()),
            ("BIAS", c.gate.is_some_and(|gate| gate.bias).into()),
        ];
        let spec = Variant::new(c.qkv.dtype, consts, overrides);
        Some(Step::new(&FINISH, spec, &self.params(self.unsplit()), &[self.slot("weights"), O], rows as u64, cost))
    }

    /// Value of the const `GATES` in the shader.
    fn gates(&self) -> u32 {
        self.c.gate.map_or(0, |gate| if gate.gates == Gates::Scalar { 1 } else { 2 })
    }

    /// The copy of the last queries to the state.
    fn keep_queries(&self) -> Option<Step> {
        let (c, s) = (self.c, &self.c.qkv);
        c.tail_slot()?;
        let bytes = (s.batch * s.heads * c.tail() * s.dim_k * 4) as f64;
        let cost = Cost { bytes_read: bytes, bytes_written: bytes, ..Cost::default() };
        let groups = s.batch * s.heads * s.dim_k.div_ceil(LANES);
        let spec = Variant::new(s.dtype, vec![], vec![]);
        Some(Step::new(&TAIL, spec, &self.params(self.unsplit()), &[Q, self.slot("q_tail")], groups as u64, cost))
    }
}
