//! Builds the dispatches of a recurrence for the chosen walk, with the cost of each.

use std::ops::Range;

use super::chunk::{CHUNK, COL_THREADS};
use super::kernels::{BY_TOKEN, GIVEN, K, O, Q, STATES, STATES_READ, STORED_VECTORS, V, rows, spans};
use super::runs::{Run, Runs};
use super::stored::{Block, Of};
use super::{DecayKind, GATE_STRIDES, O_STRIDES, Params, Passes, Recurrence, Tiles, few_told};
use crate::cores::lanes::lanes;
use crate::cores::matrix;
use crate::cores::packed::{self, borders, lookup_bytes};
use crate::error::Error;
use crate::gpu::program::{Cost, Named, Operand, Program, Scratch, Step, check_workspace};
use crate::gpu::shader::{Fragment, Kernel, Variant};
use crate::gpu::{Caps, Matrix};
use crate::tensor::DType;

/// The dispatches of one run.
pub(super) struct Dispatches<'a> {
    pub(super) c: &'a Recurrence<'a>,
    pub(super) runs: Runs<'a>,
    pub(super) run: Run,
    pub(super) tiles: Tiles,
    pub(super) walk: Passes,
    /// KV heads of all batch entries, and of all carried states.
    pub(super) kv: u64,
    units: u64,
    pub(super) params: Params,
    operands: Vec<Named>,
    pub(super) lanes: Fragment,
    pub(super) chunk_lanes: Fragment,
    /// The matrix units that the chunk form takes.
    pub(super) matrix: Option<Matrix>,
}

/// A step, and the key heads that its workgroups cover.
type Covering = (Range<usize>, Step);

impl<'a> Dispatches<'a> {
    /// The casts to u32 lose nothing that is used: every tensor has at most `u32::MAX` elements, and every sequence at
    /// most 2^30 tokens.
    pub(super) fn new(c: &'a Recurrence<'a>, tiles: Tiles, walk: Passes, caps: &Caps) -> Self {
        let s = c.qkv;
        let [q, k, v, o] = s.strides();
        let [q, k, v] = c.convolved.as_ref().map_or([q, k, v], |convolved| convolved.strides(s));
        let kv = s.kv_units() as u64;
        let units = (c.mode.states(s.batch) * s.kv_heads) as u64;
        let state = units as usize * c.features.rows * s.dim_v;
        let [q_factor, k_factor] = c.prepared.factors.unwrap_or_default();
        let params = Params {
            queries: s.queries as u32,
            keys: s.keys as u32,
            heads: s.heads as u32,
            kv_heads: s.kv_heads as u32,
            dim_k: s.dim_k as u32,
            dim_v: s.dim_v as u32,
            rows: c.features.rows as u32,
            col_splits: tiles.col_splits as u32,
            head_splits: tiles.head_splits as u32,
            segment_stride: (c.state_len() + c.passed_len()).next_multiple_of(4) as u32,
            state_len: c.state_len() as u32,
            share: s.shared as u32,
            sequences: c.mode.sequences.unwrap_or(0) as u32,
            norm_offset: state.next_multiple_of(4) as u32,
            scale: c.scale,
            norm_eps: c.normalize.unwrap_or(0.0),
            extra_state: c.state.extra as u32,
            q,
            k,
            v,
            o,
            g: c.decay.strides,
            q_factor,
            k_factor,
            ..Params::default()
        };
        let runs = Runs::new(s, &c.mode);
        let matrix = match walk {
            Passes::Chunks { .. } => c.units(caps),
            _ => None,
        };
        let chunk_row = matrix.map_or(COL_THREADS, |units| units.lanes as usize);
        let [lanes, chunk_lanes] = [tiles.col_threads, chunk_row].map(|row| lanes(row, caps));
        let (run, operands) = (Run::default(), operands(c, &runs));
        Self { c, runs, run, tiles, walk, kv, units, params, operands, lanes, chunk_lanes, matrix }
    }

    pub(super) fn build(mut self, caps: &Caps) -> Result<Program, Error> {
        let (c, s) = (self.c, self.c.qkv);
        let tensors = c.strided_slots();
        let mut strides = tensors.clone();
        strides.extend(c.decay.slot.map(|gate| (gate, GATE_STRIDES)));
        // Where o has a companion of its shape, the uniform has one set of strides for both: neither is cut where the
        // other is not.
        let beside = c.epilogue.beside_o.filter(|_| !self.runs.in_workspace());
        strides.extend(beside.map(|slot| (slot, O_STRIDES)));
        let apart = |(_, at): &(usize, usize)| c.epilogue.beside_o.is_none() || *at != O_STRIDES;
        let own: Vec<_> = tensors.iter().copied().filter(apart).collect();
        let (mut pieces, mut key_segments, mut stored) = (c.prepared.steps.clone(), 0, [0, 0]);
        let forward = self.params;
        for run in self.runs.all() {
            (self.run, self.params) = (run, run.params(forward));
            let (segments, steps, bytes) = match self.walk {
                Passes::Decode | Passes::Few => (0, vec![(0..c.key_units(), self.decode(caps))], [0, 0]),
                Passes::Sequential => self.sequential(caps)?,
                Passes::ReduceThenScan { keys, queries } => self.two_passes(keys, queries, caps)?,
                Passes::Chunks { segment } => self.two_passes(segment, segment, caps)?,
            };
            (key_segments, stored) = (segments, bytes);
            for (heads, step) in steps {
                let cut = s.cut_heads(c.op, step, heads, &c.slots, &strides, caps)?;
                pieces.extend(run.strided(s.strided(cut, &own), s));
            }
        }
        let mut workspace = c.prepared.workspace.clone();
        self.runs.round(&c.kernels.round, 3, own.len() == tensors.len(), &mut pieces, &mut workspace);
        if key_segments > 0 {
            let keep = self.walk != Passes::Sequential || c.mode.carry;
            let count = if keep { self.kv * key_segments as u64 } else { 0 };
            let elements = count.saturating_mul(u64::from(self.params.segment_stride));
            let elements = elements.saturating_add(c.mode.sequences.map_or(0, |sequences| sequences as u64 + 1));
            workspace.push(Scratch { name: "segment states", bytes: elements.max(1).saturating_mul(4) });
            workspace.push(Scratch { name: "no state", bytes: 16 });
            if let Some(splits) = c.features.row_splits {
                let sums = if splits > 1 { self.rows() as u64 * (s.dim_v as u64 + 1) * 4 } else { 0 };
                workspace.push(Scratch { name: "partial outputs", bytes: sums.max(16) });
            } else if c.mode.carry {
                workspace.pop();
            }
            let [features, scores] = stored;
            if c.features.stored.is_some() {
                workspace.push(Scratch { name: "features", bytes: features.max(16) });
            }
            if scores > 0 {
                workspace.push(Scratch { name: "scores", bytes: scores });
            }
        }
        check_workspace(c.op, &workspace)?;
        let t = self.tiles;
        let rows = if c.row_splits() > 1 {
            format!("{} of {}", t.rows * t.row_threads, c.features.rows)
        } else {
            c.features.rows.to_string()
        };
        let tile = format!("tiles of {} tokens, {rows} x {} of the state a workgroup", t.tile, 4 * t.col_threads);
        let variant: String = match self.walk {
            Passes::Decode if c.convolved.is_some() => "one token with its convolution".into(),
            Passes::Decode => "one token".into(),
            Passes::Few => few_told(s.keys),
            Passes::Sequential => format!("one pass, {tile}"),
            Passes::ReduceThenScan { keys, .. } => format!("two passes, segments of {keys}, {tile}"),
            Passes::Chunks { segment } => {
                let walked = self.matrix.is_none() || c.mode.carry;
                let states = if walked { format!(", {tile}") } else { String::new() };
                let by = self.matrix.map(|units| format!(" by {}", matrix::describe(units))).unwrap_or_default();
                let shared = match c.score_bytes(self.walk, caps) {
                    0 => String::new(),
                    _ => format!(", scores stored for {} workgroups each", c.score_readers()),
                };
                format!("products of chunks of {CHUNK} tokens{by}, segments of {segment}{shared}{states}")
            }
        };
        let walked = matches!(self.walk, Passes::Sequential | Passes::ReduceThenScan { .. });
        let variant = match c.chunk_segment(&self.tiles, caps) {
            Err(why) if walked => format!("{variant}, token by token because {why}"),
            _ => variant,
        };
        let counters = c.convolved.as_ref().map_or(0, |convolved| convolved.counters(s));
        Ok(Program::new(c.op, variant + &c.mode.told(), c.slots.clone(), workspace, pieces).counting(counters))
    }

    /// The steps of one pass over the sequence, how many segments they store, and bytes of features and of scores.
    fn sequential(&self, caps: &Caps) -> Result<(usize, Vec<Covering>, [u64; 2]), Error> {
        let (c, s) = (self.c, self.c.qkv);
        let whole = s.keys.next_multiple_of(self.tiles.tile);
        let mut steps = Vec::new();
        // The carried state is copied to a place of its own: workgroups that read it do not wait for those that store.
        let (stored, page) = if c.mode.carry { (2, 1) } else { (1, 0) };
        let from = Params { stored_segments: stored as u32, read_page: page, ..self.params };
        if c.mode.carry {
            steps.extend(self.of_all(self.first_running_max(1, from)));
            steps.extend(self.of_all([self.scan(1, 3, from)]));
        }
        let blocks = c.blocks(s.keys, whole, Of::Both, 0, caps)?;
        for block in &blocks {
            let from = self.in_block(from, block, whole, Of::Both);
            steps.extend(self.of_block(block, c.store_features(from, &self.operands, block, Of::Both)));
            steps.extend(
                self.of_block(
                    block,
                    self.parts(|part| self.output(part, whole, block, from, c.mode.carry, c.mode.carry)),
                ),
            );
        }
        if c.mode.carry {
            steps.extend(self.of_all([self.scan(1, 2, Params { read_page: 0, ..from })]));
        }
        Ok((stored, steps, [self.feature_bytes(&blocks, Of::Both), 0]))
    }

    /// The steps of reduce-then-scan, how many segments they store, and bytes of features and of scores. Features of keys
    /// and queries of the whole sequence are stored once if they fit; otherwise those of the block that a pass is at.
    fn two_passes(&self, keys: usize, queries: usize, caps: &Caps) -> Result<(usize, Vec<Covering>, [u64; 2]), Error> {
        let (c, s) = (self.c, self.c.qkv);
        let segments = packed::segments(&c.mode, s.keys, keys);
        let read = if c.mode.causal { Of::Both } else { Of::Queries };
        let scores = c.score_bytes(self.walk, caps);
        let outputs = c.blocks(s.queries, queries, read, scores, caps)?;
        // Queries of the non-causal form have blocks of their own.
        let at_once = c.mode.causal && outputs.len() == 1;
        let wrote = if at_once { Of::Both } else { Of::Keys };
        let sums = c.blocks(s.keys, keys, wrote, 0, caps)?;
        let from = Params { stored_segments: segments as u32, segment: keys as u32, ..self.params };
        let borders = borders(&c.kernels.borders, &c.mode, self.run.backward, &from, &self.operands);
        let mut steps = self.of_all(borders);
        for block in &sums {
            let from = self.in_block(from, block, keys, wrote);
            steps.extend(self.of_block(block, c.store_features(from, &self.operands, block, wrote)));
            steps.extend(self.of_block(block, self.parts(|part| self.segment(part, keys, block, from))));
        }
        steps.extend(self.of_all(self.first_running_max(segments, from)));
        steps.extend(self.of_all([self.scan(segments, if c.mode.causal { 0 } else { 1 }, from)]));
        for block in &outputs {
            let from = self.in_block(from, block, queries, read);
            if !at_once {
                steps.extend(self.of_block(block, c.store_features(from, &self.operands, block, read)));
            }
            let written = match self.walk {
                Passes::Chunks { .. } if scores > 0 => {
                    self.scored(queries, block, from).into_iter().flatten().collect()
                }
                Passes::Chunks { .. } => self.chunks(queries, block, from, false).into_iter().collect(),
                _ => self.parts(|part| self.output(part, queries, block, from, true, false)),
            };
            steps.extend(self.of_block(block, written));
        }
        let features = self.feature_bytes(&sums, wrote).max(self.feature_bytes(&outputs, read));
        let each = |block: &Block| packed::segments(&c.mode, block.tokens.len(), queries) * block.heads.len();
        let most = outputs.iter().map(each).max().unwrap_or(0) as u64;
        Ok((segments, steps, [features, scores * most]))
    }

    /// Bytes of the features of the largest of these blocks.
    fn feature_bytes(&self, blocks: &[Block], of: Of) -> u64 {
        blocks.iter().map(|block| self.c.block_bytes(block, of)).max().unwrap_or(0)
    }

    fn of_all(&self, steps: impl IntoIterator<Item = Step>) -> Vec<Covering> {
        steps.into_iter().map(|step| (0..self.c.key_units(), step)).collect()
    }

    fn of_block(&self, block: &Block, steps: impl IntoIterator<Item = Step>) -> Vec<Covering> {
        steps.into_iter().map(|step| (block.heads.clone(), step)).collect()
    }

    /// Parameters of the steps of a block, whose workspace has these features.
    fn in_block(&self, from: Params, block: &Block, segment: usize, of: Of) -> Params {
        let keys = if of == Of::Queries { 0 } else { block.heads.len() * block.tokens.len() };
        Params {
            segment: segment as u32,
            segments: packed::segments(&self.c.mode, block.tokens.len(), segment) as u32,
            first_segment: (block.tokens.start / segment) as u32,
            first: block.tokens.start as u32,
            end: block.tokens.end as u32,
            first_unit: block.heads.start as u32,
            query_features: keys as u32,
            ..from
        }
    }

    /// Key heads of the state in a block. Heads of the state that share a head of k stay together.
    pub(super) fn kv(&self, block: &Block) -> u64 {
        (block.heads.len() * self.c.qkv.shared) as u64
    }

    /// One step for each part that the rows of the state are split into.
    fn parts(&self, step: impl Fn(usize) -> Step) -> Vec<Step> {
        (0..self.c.row_splits()).map(step).collect()
    }

    /// Number of rows (batch, query head, token) of the output.
    pub(super) fn rows(&self) -> usize {
        self.c.qkv.batch * self.c.qkv.heads * self.c.qkv.queries
    }

    /// A variant with fragments of the operator. `keep_logs` says whether the kernel stores the state of a segment.
    pub(super) fn spec(
        &self,
        fragments: &[&[Fragment]],
        keep_logs: bool,
        mut consts: Vec<(&'static str, u32)>,
        mut overrides: Vec<(&'static str, u32)>,
    ) -> Variant {
        consts.extend([("DECAY", self.c.decay.kind.number()), ("KEEP_LOGS", keep_logs.into())]);
        overrides.push(self.normalize());
        overrides.extend(&self.c.overrides);
        Variant::new(self.c.qkv.dtype, consts, overrides).with(&[self.c.factors()]).with(&fragments.concat())
    }

    pub(super) fn step(
        &self,
        kernel: &'static Kernel,
        (spec, narrow): (Variant, Option<Variant>),
        params: Params,
        groups: u64,
        cost: Cost,
    ) -> Step {
        Step::new(kernel, spec, &params, &self.operands, groups, cost).or_narrow(narrow)
    }

    fn normalize(&self) -> (&'static str, u32) {
        ("NORMALIZE", self.c.normalize.is_some().into())
    }

    /// Flops to update or read the state for one token of one head, for one part of the rows.
    pub(super) fn touch(&self) -> f64 {
        2.0 * self.c.state_len() as f64 / self.c.row_splits() as f64
    }

    /// The fragments that find the tokens of a workgroup.
    pub(super) fn spans(&self) -> (&'static [Fragment], Option<(&'static str, u32)>) {
        spans(&self.c.mode, false)
    }

    /// Bytes of the states of all key heads.
    pub(super) fn state_bytes(&self) -> f64 {
        self.states(self.kv)
    }

    /// Bytes of the states of some key heads.
    pub(super) fn states(&self, kv: u64) -> f64 {
        kv as f64 * self.c.state_len() as f64 * 4.0
    }

    /// Number of tokens of all key heads of a block, bytes that a walk loads of its keys, and bytes of its values.
    pub(super) fn key_bytes(&self, block: &Block) -> (f64, f64, f64) {
        let tokens = self.kv(block) as f64 * block.tokens.len() as f64;
        let value = (self.c.qkv.dtype.size() * self.c.qkv.dim_v) as f64;
        (tokens, tokens * self.c.vector_bytes(), tokens * value)
    }

    /// Work to compute the features of the vectors of a block's key heads, if every segment of length `length` is padded to
    /// whole tiles of `tile`.
    pub(super) fn features(&self, block: &Block, length: usize, tile: usize) -> Cost {
        let tokens = block.tokens.len();
        let (whole, rest) = (tokens / length, tokens % length);
        let padded = match self.c.mode.sequences {
            Some(_) => tokens + packed::segments(&self.c.mode, tokens, length) * (tile - 1),
            None => whole * length.next_multiple_of(tile) + rest.next_multiple_of(tile),
        };
        self.c.features.cost * (padded as f64 * self.kv(block) as f64)
    }

    /// The carried running maximum goes to the first segment, before each element of the scan reads it.
    fn first_running_max(&self, segments: usize, from: Params) -> Option<Step> {
        (self.c.mode.carry && self.c.decay.kind == DecayKind::Stabilized).then(|| self.scan(segments, 4, from))
    }

    fn scan(&self, segments: usize, mode: u32, from: Params) -> Step {
        let stride = self.c.state_len();
        let params = Params { segments: segments as u32, ..from };
        let groups = self.units * if mode == 4 { 1 } else { (stride as u64).div_ceil(64) };
        let all = self.state_bytes() * segments as f64;
        let carried = if self.c.mode.carry { self.units as f64 * self.c.state_len() as f64 * 4.0 } else { 0.0 };
        let decays = mode < 2 && self.c.decay.kind != DecayKind::None;
        // Levels: every element reads those of all segments, and the carried one first. One element per key head writes
        // the running maxima that segments start from.
        let running_maxes = self.units as f64 * self.c.running_max_bytes();
        let relative = if running_maxes > 0.0 && mode < 2 { all } else { 0.0 };
        let first = if running_maxes > 0.0 && mode < 2 { carried } else { 0.0 };
        let starts = match mode {
            0 => self.kv as f64 * self.c.running_max_bytes() * (segments - usize::from(self.c.mode.carry)) as f64,
            1 => running_maxes,
            _ => 0.0,
        };
        let last = if self.c.mode.carry { running_maxes } else { 0.0 };
        // Every element finds the borders of its sequence.
        let elements = if mode == 4 { stride.min(64) } else { stride };
        let lookups = lookup_bytes(&self.c.mode, true) * self.units as f64 * elements as f64;
        let cost = Cost {
            flops: self.kv as f64 * segments as f64 * stride as f64,
            exps: if decays { all / 4.0 } else { 0.0 } + relative / 4.0,
            bytes_read: match mode {
                2 => all + running_maxes,
                3 => carried,
                4 => running_maxes,
                _ => all * if decays { 2.0 } else { 1.0 } + carried + relative + first,
            } + lookups,
            bytes_written: match mode {
                0 => all + carried + starts + last,
                2 => carried + last,
                4 => running_maxes,
                _ => self.state_bytes() + if mode == 1 { carried + starts + last } else { 0.0 },
            },
        };
        let (spans, whole) = self.spans();
        let mut overrides = vec![
            self.normalize(),
            ("TRANSPOSED", self.c.state.transposed.into()),
            ("CARRY", self.c.mode.carry.into()),
            ("MODE", mode),
            ("DECAY", self.c.decay.kind.number()),
            ("POSITION", self.c.state.position.into()),
            ("RUNNING_MAX", (self.c.decay.kind == DecayKind::Stabilized).into()),
        ];
        overrides.extend(whole);
        let spec = Variant::new(DType::F32, vec![], overrides).with(spans);
        self.step(&self.c.kernels.scan, (spec, None), params, groups, cost)
    }

    fn output(&self, part: usize, length: usize, block: &Block, params: Params, init: bool, store: bool) -> Step {
        let (c, t, s) = (self.c, self.tiles, self.c.qkv);
        let (kv, segments) = (self.kv(block), params.segments as f64);
        let each = u64::from(params.segments) * (t.col_splits * t.head_splits) as u64;
        let (tokens, k, v) = self.key_bytes(block);
        let all = tokens * s.group() as f64;
        // The part of all rows of outputs that the block has.
        let covered = all / self.rows() as f64;
        let (col_splits, head_splits) = (t.col_splits as f64, t.head_splits as f64);
        let share = 1.0 / c.row_splits() as f64;
        // Every column split reads the sums of features.
        let norm =
            if c.normalize.is_some() { kv as f64 * c.features.rows as f64 * 4.0 * (col_splits - 1.0) } else { 0.0 };
        let running_max = kv as f64 * c.running_max_bytes();
        let start = (self.states(kv) + norm + running_max * col_splits) * segments * head_splits * share;
        // If rows are split into parts, the sums so far are stored between parts: E columns and one weight per row. The
        // last part reads the weight once per four columns.
        let (first, last) = (part == 0, part + 1 == c.row_splits());
        let sums = |columns: f64| all * (s.dim_v as f64 + columns) * 4.0;
        let waiting = match (first, last) {
            (true, true) => (0.0, 0.0),
            (true, false) => (0.0, sums(1.0)),
            (false, false) => (sums(1.0), sums(1.0)),
            (false, true) => (sums((s.dim_v as f64 / 4.0).ceil()), 0.0),
        };
        let mut cost = Cost {
            flops: all * self.touch(),
            exps: 0.0,
            bytes_read: all * c.vector_bytes() * col_splits
                + if init { start } else { 0.0 }
                + waiting.0
                + lookup_bytes(&c.mode, false) * (kv * each) as f64
                + if last { self.run.bytes_added(&self.runs) * covered } else { 0.0 },
            bytes_written: if last { self.runs.output_bytes() * covered } else { 0.0 }
                + if store { self.states(kv) * share + running_max } else { 0.0 }
                + waiting.1,
        } + c.epilogue.cost * all
            + self.features(block, length, t.tile) * ((t.read_heads * t.head_splits) as f64 * col_splits);
        if c.mode.causal {
            cost =
                cost + Cost {
                    flops: tokens * self.touch() * head_splits,
                    exps: 0.0,
                    bytes_read: (k * col_splits + v) * head_splits,
                    bytes_written: 0.0,
                } + c.decay.cost * (tokens * col_splits * head_splits)
                    + self.features(block, length, t.tile) * (col_splits * head_splits);
        }
        let f = &c.features;
        let mut consts = t.consts(t.tile);
        // Without a state to store, the scan has run before.
        consts.extend([("READ_HEADS", t.read_heads as u32), ("ADVANCED", (!store).into())]);
        consts.extend(&f.consts);
        consts.extend(c.stored_consts());
        let mut overrides = vec![("CAUSAL", c.mode.causal.into()), ("INIT", init.into()), ("STORE", store.into())];
        overrides.push(("SUMMED", self.run.summed.into()));
        let (spans, whole) = self.spans();
        overrides.extend(whole);
        if c.features.row_splits.is_some() {
            overrides.extend([("FIRST", first.into()), ("LAST", last.into())]);
        }
        overrides.extend(&c.epilogue.overrides);
        let fragments = [&[self.lanes, BY_TOKEN][..], &f.keys, &f.queries, &c.decay.tiled, &c.epilogue.tiled];
        let spec = self.spec(&fragments, false, consts, overrides).with(&[self.runs.outputs()]).with(spans);
        let states = if store { STATES } else { STATES_READ };
        let step = self.step(
            &c.kernels.output,
            self.rows_of(spec, &[V, O, states], &[K, Q], &STORED_VECTORS),
            params,
            kv * each,
            cost,
        );
        self.number(step, block, each).own(c.own.get(part))
    }

    /// Chooses how a kernel loads rows: these, and of keys and queries, as far as `vectors` has them, the vectors, or what is
    /// stored of them by the fragments `stored`.
    pub(super) fn rows_of(
        &self,
        spec: Variant,
        wanted: &[usize],
        vectors: &[usize],
        stored: &[Fragment],
    ) -> (Variant, Option<Variant>) {
        if self.c.features.stored.is_some() {
            return rows(self.c.qkv, &spec.with(stored), wanted);
        }
        let given: Vec<_> = vectors.iter().map(|&slot| if slot == K { GIVEN[1] } else { GIVEN[2] }).collect();
        rows(self.c.qkv, &spec.with(&GIVEN[..1]).with(&given), &[wanted, vectors].concat())
    }

    /// Numbers the workgroups of a step of which there are `each` per key head of the state.
    pub(super) fn number(&self, step: Step, block: &Block, each: u64) -> Step {
        Step { first: (block.heads.start * self.c.qkv.shared) as u64 * each, ..step }
    }
}

/// What the buffers of the kernels are bound to: slots, workspace and counters by name.
fn operands(c: &Recurrence<'_>, runs: &Runs<'_>) -> Vec<Named> {
    let slots = c.slots.iter().enumerate().map(|(i, slot)| (slot.name, Operand::Slot(i)));
    // An alias comes first, since another slot may have its name.
    let aliased = c.aliases.iter().filter_map(|(name, of)| {
        let slot = c.slots.iter().position(|slot| slot.name == *of)?;
        Some((*name, Operand::Slot(slot)))
    });
    let states: &[&str] = match (c.features.row_splits.is_some(), c.mode.carry) {
        (true, _) => &["segments", "state", "partials"],
        (false, true) => &["segments"],
        (false, false) => &["segments", "state"],
    };
    let features = if c.features.stored.is_some() { &["features"][..] } else { &[] };
    let counters = c.convolved.as_ref().map(|_| ("arrivals", Operand::Counters));
    c.prepared.operands(runs, aliased.chain(slots).chain(counters), &[states, features, &["scores"]].concat())
}
