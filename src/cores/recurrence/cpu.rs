//! Recurrences on the CPU whose state is a matrix of features by values. Tokens are processed in chunks with matrix
//! products, and chunks are grouped into segments of fixed length. The feature map is a parameter ([`Features`]).
//!
//! Within a chunk, queries read keys through scores, of which only the lower triangle is used. They read earlier tokens
//! through the state. A segment sums its own keys and values from zero, and a chunk reads this sum plus the state
//! before the segment. The state at the start of each segment is therefore the fold of the segment sums from the left,
//! whether one thread processes all segments or several threads share them (see [`Scan`]). If the state decays (see
//! [`decay`]), the sum of a segment also stores how much of the earlier state remains after it.

use crate::cpu::{simd, threads};
use std::ops::Range;

use crate::cores::recurrence::cpu_decay::{self as decay, Chunk, Decay, Space};
use crate::cpu::matrix::{Mat, Onto, product, product_of_lower, product_to_diagonal};
use crate::cpu::scan::Scan;
use crate::cpu::tiles::{Output, Source};
use crate::operator::mode::Mode;
use crate::operator::qkv::Qkv;
use crate::tensor::{HostTensor, TensorMap, Values, axes};

/// Tokens per segment if the configuration does not set it. It is long enough that adding the earlier state costs
/// little, and short enough that one head keeps several threads busy.
const SEGMENT: usize = 1024;

/// Tokens per chunk if each row of the state has its own decay. Scores are then not a matrix product.
pub(crate) const ROW_CHUNK: usize = 16;

/// Queries per block in the non-causal form, which has no triangle to skip.
const READ: usize = 256;

/// A head of q, k or v in one batch entry.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) batch: usize,
    pub(crate) head: usize,
    /// The key head: `head` itself, or the one that a query head reads.
    pub(crate) kv_head: usize,
}

/// A state, or a sum that is folded into one: the matrix and the norm.
pub(crate) type State<'a> = (&'a mut [f32], &'a mut [f32]);

/// Computes the features of q and k. A tile is a representation of the features of some tokens: if there are many
/// features, an implementation need not store them all.
pub(crate) trait Features: Sync {
    /// Tokens per chunk.
    const CHUNK: usize;

    /// Number of features, which is the number of rows of the state.
    fn width(&self) -> usize;

    /// Floats of buffer space per token of a tile.
    fn tile_len(&self) -> usize;

    /// Floats of buffer space that the products below need for `tokens` tokens.
    fn space_len(&self, tokens: usize) -> usize;

    /// Flops per score.
    fn score_flops(&self) -> usize;

    /// Whether features are relative: those of a token are divided by its factor `e^top`, and the state is divided by
    /// `e^running_max`.
    fn relative(&self) -> bool {
        false
    }

    /// The `top` of token `i` of a tile.
    fn top(&self, _tile: Mat<'_>, _i: usize) -> f32 {
        0.0
    }

    /// Returns the features of some tokens. `space` has room for the tile.
    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b>;

    /// Computes `scores = q k^T` for `rows` queries and `rows` keys on and below the diagonal.
    fn scores(&self, rows: usize, q: Mat<'_>, k: Mat<'_>, scores: &mut [f32], space: &mut [f32]);

    /// Computes `out = q matrix`, `[rows, E]`, and `weights = q norm` if the state has a norm.
    fn read(
        &self,
        rows: usize,
        q: Mat<'_>,
        state: (&[f32], &[f32]),
        out: &mut [f32],
        weights: &mut [f32],
        space: &mut [f32],
    );

    /// Computes `matrix += k^T v`, and `norm += k^T 1` if the state has a norm.
    fn absorb(&self, rows: usize, k: Mat<'_>, v: Mat<'_>, state: State<'_>, space: &mut [f32]);
}

/// Features that map each element of a row on its own. They are computed as the rows are loaded.
pub(crate) struct Components {
    /// Elements of a row of q or k.
    pub(crate) width: usize,
    /// Elements of a row of v.
    pub(crate) dim_v: usize,
}

impl Features for Components {
    /// Larger chunks spend more time on scores, smaller ones on loading and storing the state.
    const CHUNK: usize = 32;

    fn width(&self) -> usize {
        self.width
    }

    fn tile_len(&self) -> usize {
        self.width
    }

    fn space_len(&self, _tokens: usize) -> usize {
        0
    }

    fn score_flops(&self) -> usize {
        2 * self.width
    }

    fn tile<'b>(&'b self, from: &'b Source<'_>, head: Head, tokens: Range<usize>, space: &'b mut [f32]) -> Mat<'b> {
        from.tile(head.batch, head.head, tokens, space)
    }

    fn scores(&self, rows: usize, q: Mat<'_>, k: Mat<'_>, scores: &mut [f32], _space: &mut [f32]) {
        product_to_diagonal([rows, self.width, rows], q, k.t(), scores, rows);
    }

    fn read(
        &self,
        rows: usize,
        q: Mat<'_>,
        (matrix, norm): (&[f32], &[f32]),
        out: &mut [f32],
        weights: &mut [f32],
        _space: &mut [f32],
    ) {
        product([rows, self.width, self.dim_v], q, Mat::rows(matrix, self.dim_v), Onto::Nothing, out, self.dim_v);
        if !norm.is_empty() {
            for (i, weight) in weights[..rows].iter_mut().enumerate() {
                *weight = simd::dot(q.row(i, self.width), norm);
            }
        }
    }

    fn absorb(&self, rows: usize, k: Mat<'_>, v: Mat<'_>, (matrix, norm): State<'_>, _space: &mut [f32]) {
        product([self.width, rows, self.dim_v], k.t(), v, Onto::Sum, matrix, self.dim_v);
        if !norm.is_empty() {
            (0..rows).for_each(|i| simd::add(norm, k.row(i, self.width)));
        }
    }
}

/// A recurrence on host tensors.
pub(crate) struct Recurrence<F> {
    /// Shapes, storage and axis order.
    pub(crate) qkv: Qkv,
    /// The feature map.
    pub(crate) features: F,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Added to the denominator; `None` if there is no denominator.
    pub(crate) norm_eps: Option<f32>,
    /// Whether the matrix of the state is stored as `[E, m]` instead of `[m, E]`.
    pub(crate) transposed: bool,
    /// How it runs along the sequence.
    pub(crate) mode: Mode,
}

/// The tensors of a run, except the state.
pub(crate) struct Tensors<'a> {
    pub(crate) q: Source<'a>,
    pub(crate) k: Source<'a>,
    pub(crate) v: Source<'a>,
    /// How the state decays.
    pub(crate) decay: Decay<'a>,
}

/// Changes the outputs `[tokens, E]` of some tokens of a head before they are stored (the epilogue).
pub(crate) type Finish<'a> = &'a (dyn Fn(Head, Range<usize>, &mut [f32]) + Sync);

/// Describes the chunks and segments, for people.
pub(crate) fn variant<F: Features>(segment: Option<usize>) -> String {
    let segment = segment.unwrap_or(SEGMENT);
    format!("chunks of {}, segments of {segment}", F::CHUNK.min(segment))
}

impl<F: Features> Recurrence<F> {
    /// Runs from the state in `state`. Returns the output under the name `output`, and the new state if it is carried.
    pub(crate) fn run(
        &self,
        tensors: Tensors<'_>,
        state: &TensorMap,
        output: &str,
        finish: Option<Finish<'_>>,
    ) -> TensorMap {
        let s = &self.qkv;
        let o = Output::new(s.dtype, s.layout, [s.batch, s.heads, s.queries, s.dim_v]);
        let segment = self.mode.segment.unwrap_or(SEGMENT);
        let job = Job { run: self, tensors, o, finish, segment };
        let mut states = job.initial(state);
        let segments = s.keys.div_ceil(segment);
        let scan = Scan {
            units: s.kv_units(),
            segments,
            state: job.state_len(),
            sum_work: job.flops(segment.min(s.keys), 0),
            walk_work: job.flops(segment.min(s.keys), s.group()),
        };
        let sum = |unit, segment, out: &mut [f32]| job.sum(unit, segment, out);
        let fold = |state: &mut [f32], sum: &[f32]| job.fold(state, sum);
        if self.mode.causal {
            scan.run(&mut states, sum, fold, |unit, segment, state| job.walk(unit, segment, state));
        } else {
            scan.sums(&mut states, sum, fold, |_, _, _| {});
            let tasks = s.queries.div_ceil(SEGMENT);
            let work = 2 * (s.batch * s.heads * s.queries * self.features.width() * s.dim_v) as u64;
            threads::each(s.batch * s.heads * tasks, work, |task| {
                let first = task % tasks * SEGMENT;
                job.read(task / tasks, first..(first + SEGMENT).min(s.queries), &states);
            });
        }

        let mut outputs = TensorMap::new();
        outputs.insert(output, job.o.finish());
        if self.mode.carry {
            let [b, g, m, e] = [s.batch, s.kv_heads, self.features.width(), s.dim_v];
            let part = |at: Range<usize>| -> Vec<f32> {
                states.chunks_exact(scan.state).flat_map(|x| &x[at.clone()]).copied().collect()
            };
            if self.transposed {
                outputs.insert("state", HostTensor::f32([b, g, e, m], axes::exchange(&part(0..m * e), [m, e])));
            } else {
                outputs.insert("state", HostTensor::f32([b, g, m, e], part(0..m * e)));
            }
            if self.norm_eps.is_some() {
                outputs.insert("norm", HostTensor::f32([b, g, m], part(m * e..m * e + m)));
            }
            if self.features.relative() {
                outputs.insert("log_scale", HostTensor::f32([b, g], part(scan.state - 1..scan.state)));
            }
        }
        outputs
    }
}

/// One run: the recurrence, its tensors and the output buffer.
struct Job<'a, F> {
    run: &'a Recurrence<F>,
    tensors: Tensors<'a>,
    o: Output,
    finish: Option<Finish<'a>>,
    segment: usize,
}

impl<F: Features> Job<'_, F> {
    fn features(&self) -> &F {
        &self.run.features
    }

    /// Floats of the matrix of a state, `[m, E]`.
    fn matrix_len(&self) -> usize {
        self.features().width() * self.run.qkv.dim_v
    }

    /// Floats of the matrix, and of the norm after it if there is one.
    fn sums_len(&self) -> usize {
        self.matrix_len() + if self.run.norm_eps.is_some() { self.features().width() } else { 0 }
    }

    /// Floats of one state: the matrix and the norm, then the log decays of the tokens of a sum, then the running maximum if
    /// there is one.
    fn state_len(&self) -> usize {
        self.sums_len() + self.decay_width() + usize::from(self.features().relative())
    }

    fn decay_width(&self) -> usize {
        if self.features().relative() { 1 } else { self.tensors.decay.width(self.features().width()) }
    }

    /// The decay of some tokens. If the state has a running maximum, `running_max` becomes the one after these tokens.
    fn decay<'b>(
        &self,
        head: Head,
        tokens: Range<usize>,
        k: Mat<'_>,
        running_max: &mut f32,
        room: Space<'b>,
    ) -> Chunk<'b> {
        if self.features().relative() {
            self.tensors.decay.relative(head, tokens, |i| self.features().top(k, i), running_max, room)
        } else {
            self.tensors.decay.chunk(head, tokens, room)
        }
    }

    fn decays(&self) -> bool {
        self.decay_width() > 0
    }

    /// DecayKind a matrix and its norm by the given log decays.
    fn leave(&self, sums: &mut [f32], logs: &[f32]) {
        let (matrix, norm) = sums.split_at_mut(self.matrix_len());
        decay::leave_rows(matrix, self.run.qkv.dim_v, logs);
        decay::leave_rows(norm, 1, logs);
    }

    /// Folds the sum of a segment into the state before it.
    fn fold(&self, state: &mut [f32], sum: &[f32]) {
        let ((state, after), (sums, logs)) = (state.split_at_mut(self.sums_len()), sum.split_at(self.sums_len()));
        if let [log, own] = *logs
            && self.features().relative()
        {
            let running_max = decay::risen(after[1], log, own);
            self.leave(state, &[(after[1] - running_max) + log]);
            simd::add_scaled(state, sums, simd::exp_signed::<false>(own - running_max));
            after[1] = running_max;
        } else {
            self.leave(state, logs);
            simd::add(state, sums);
        }
    }

    /// The initial states: the given ones, or zeros.
    fn initial(&self, tensors: &TensorMap) -> Vec<f32> {
        let (matrix, len) = (self.matrix_len(), self.state_len());
        let mut states = threads::zeros(self.run.qkv.kv_units() * len);
        if self.features().relative() {
            let given = tensors.get("log_scale").filter(|_| self.run.mode.carry).map(HostTensor::to_f32);
            for (i, state) in states.chunks_exact_mut(len).enumerate() {
                state[len - 1] = given.as_ref().map_or(decay::NOTHING, |given| given[i]);
            }
        }
        for (name, range) in [("state", 0..matrix), ("norm", matrix..self.sums_len())] {
            if self.run.mode.carry
                && !range.is_empty()
                && let Some(Values::F32(given)) = tensors.get(name).map(HostTensor::values)
            {
                for (state, given) in states.chunks_exact_mut(len).zip(given.chunks_exact(range.len())) {
                    if self.run.transposed && name == "state" {
                        let sizes = [self.run.qkv.dim_v, self.features().width()];
                        state[range.clone()].copy_from_slice(&axes::exchange(given, sizes));
                    } else {
                        state[range.clone()].copy_from_slice(given);
                    }
                }
            }
        }
        states
    }

    /// Flops for `tokens` tokens of a key head that `readers` query heads read.
    fn flops(&self, tokens: usize, readers: usize) -> u64 {
        let (m, e, score) = (self.features().width(), self.run.qkv.dim_v, self.features().score_flops());
        (tokens * (2 * m * e + readers * (2 * m * e + self.chunk() * (score + 2 * e)))) as u64
    }

    /// Tokens per chunk.
    fn chunk(&self) -> usize {
        if matches!(self.tensors.decay, Decay::Row(_)) { ROW_CHUNK } else { F::CHUNK }
    }

    /// The token ranges of the chunks of a segment.
    fn chunks(&self, segment: usize) -> impl Iterator<Item = Range<usize>> {
        let start = segment * self.segment;
        let end = (start + self.segment).min(self.run.qkv.keys);
        (start..end).step_by(self.chunk()).map(move |first| first..(first + self.chunk()).min(end))
    }

    /// Number of tokens of the largest chunk.
    fn rows(&self) -> usize {
        self.chunk().min(self.segment).min(self.run.qkv.keys)
    }

    /// The key head of a unit. Units number the key heads of all batch entries.
    fn key_head(&self, unit: usize) -> Head {
        let head = unit % self.run.qkv.kv_heads;
        Head { batch: unit / self.run.qkv.kv_heads, head, kv_head: head }
    }

    /// The head of q or k that this head of v uses.
    fn shared(&self, head: Head) -> Head {
        let shared = self.run.qkv.shared;
        Head { head: head.head / shared, kv_head: head.kv_head / shared, ..head }
    }

    /// Floats of buffer space: three sizes for the decay of a chunk (see [`Space`]), then one for keys or queries
    /// multiplied by their decay.
    fn decay_len(&self, rows: usize) -> [usize; 4] {
        let width = self.decay_width();
        [
            2 * rows * width,
            width,
            if self.decays() { 2 * rows } else { 0 },
            if self.decays() { rows * self.features().width() } else { 0 },
        ]
    }

    /// Adds a chunk to the sums so far. `running_max` is the running maximum after the chunk.
    fn absorb(
        &self,
        rows: usize,
        (k, v): (Mat<'_>, Mat<'_>),
        chunk: Chunk<'_>,
        running_max: f32,
        total: &mut [f32],
        [kept, left, space]: [&mut [f32]; 3],
    ) {
        let (sums, all) = total.split_at_mut(self.sums_len());
        let mut keys = k;
        if self.decays() {
            let width = self.features().width();
            decay::kept(rows, k, width, chunk, kept, left);
            if self.features().relative() {
                self.leave(sums, &[(all[1] - running_max) + chunk.logs[0]]);
                all[1] = running_max;
            } else {
                self.leave(sums, chunk.logs);
            }
            simd::add(all, chunk.logs);
            keys = Mat::rows(kept, width);
        }
        self.features().absorb(rows, keys, v, sums.split_at_mut(self.matrix_len()), space);
    }

    /// Sets a sum to that of no tokens.
    fn clear(&self, total: &mut [f32]) {
        total.fill(0.0);
        if let (true, Some(running_max)) = (self.features().relative(), total.last_mut()) {
            *running_max = decay::NOTHING;
        }
    }

    /// Computes the sum of a segment.
    fn sum(&self, unit: usize, segment: usize, total: &mut [f32]) {
        let (head, rows) = (self.key_head(unit), self.rows());
        let [factors, width, scales, decayed] = self.decay_len(rows);
        let (tile, space) = (rows * self.features().tile_len(), self.features().space_len(rows));
        let sizes = [tile, rows * self.run.qkv.dim_v, space, factors, width, scales, decayed, width];
        self.clear(total);
        threads::scratch(sizes, |[k_space, v_space, space, factors, logs, scales, kept, left]| {
            for tokens in self.chunks(segment) {
                let k = self.features().tile(&self.tensors.k, self.shared(head), tokens.clone(), k_space);
                let v = self.tensors.v.tile(head.batch, head.head, tokens.clone(), v_space);
                let room = Space { factors: &mut *factors, logs: &mut *logs, scales: &mut *scales };
                let mut running_max = total[total.len() - 1];
                let chunk = self.decay(head, tokens.clone(), k, &mut running_max, room);
                self.absorb(tokens.len(), (k, v), chunk, running_max, total, [&mut *kept, &mut *left, &mut *space]);
            }
        });
    }

    /// Writes the outputs of a segment. `state` is the state before the segment and becomes the one after it.
    fn walk(&self, unit: usize, segment: usize, state: &mut [f32]) {
        let (features, dim_v, group) = (self.features(), self.run.qkv.dim_v, self.run.qkv.group());
        let key_head = self.key_head(unit);
        let (rows, n, tile, width) = (self.rows(), self.state_len(), features.tile_len(), features.width());
        let [factors, each, scales, decayed] = self.decay_len(rows);
        let chunk_sizes = [rows * tile, rows * dim_v, rows * tile, rows * rows, rows * dim_v, rows];
        let [k, v, q, scores, out, weights] = chunk_sizes;
        let space = features.space_len(rows);
        let sizes = [n, n, k, v, q, scores, out, weights, space, factors, each, scales, decayed, decayed, each];
        threads::scratch(
            sizes,
            |[total, before, k_space, v_space, q_space, scores, out, weights, space, rest @ ..]| {
                let [factors, logs, scales, kept, reached, left] = rest;
                self.clear(total);
                before.copy_from_slice(state);
                for (i, tokens) in self.chunks(segment).enumerate() {
                    if i > 0 && self.decays() {
                        before.copy_from_slice(state);
                        self.fold(before, total);
                    } else if i > 0 {
                        simd::add_into(before, state, total);
                    }
                    let rows = tokens.len();
                    let k = features.tile(&self.tensors.k, self.shared(key_head), tokens.clone(), k_space);
                    let v = self.tensors.v.tile(key_head.batch, key_head.head, tokens.clone(), v_space);
                    let room = Space { factors: &mut *factors, logs: &mut *logs, scales: &mut *scales };
                    let mut running_max = before[n - 1];
                    let chunk = self.decay(key_head, tokens.clone(), k, &mut running_max, room);
                    for head in key_head.head * group..(key_head.head + 1) * group {
                        let head = Head { head, ..key_head };
                        let q = features.tile(&self.tensors.q, self.shared(head), tokens.clone(), q_space);
                        let mut reads = q;
                        if let Decay::Row(_) = self.tensors.decay {
                            decay::scores(rows, width, (q, k), chunk.factors, scores, kept);
                        } else {
                            features.scores(rows, q, k, scores, space);
                            // Overwritten, not multiplied by zero: later tokens must have no effect however large they
                            // are. (Values that are not finite still affect earlier outputs of their chunk, because
                            // zero times such a value is NaN.)
                            for (i, row) in scores.chunks_mut(rows).take(rows).enumerate() {
                                row[i + 1..].fill(0.0);
                            }
                            if self.decays() {
                                decay::between(rows, chunk, scores, weights);
                            }
                        }
                        if self.decays() {
                            decay::reached(rows, q, width, chunk.factors, reached, left);
                            reads = Mat::rows(reached, width);
                        }
                        let state = before[..self.sums_len()].split_at(self.matrix_len());
                        features.read(rows, reads, state, out, weights, space);
                        product_of_lower([rows, rows, dim_v], Mat::rows(scores, rows), v, Onto::Sum, out, dim_v);
                        if self.run.norm_eps.is_some() {
                            for (weight, row) in weights.iter_mut().zip(scores.chunks(rows)).take(rows) {
                                *weight += simd::sum(row);
                            }
                        }
                        self.finish(head, tokens.clone(), out, weights, |i| {
                            chunk.running_maxes[i] + features.top(q, i)
                        });
                    }
                    let own = [&mut *kept, &mut *left, &mut *space];
                    if features.relative() {
                        // The sum of a segment has its own running maximum.
                        let mut running_max = total[n - 1];
                        let room = Space { factors: &mut *factors, logs: &mut *logs, scales: &mut *scales };
                        let chunk = self.decay(key_head, tokens.clone(), k, &mut running_max, room);
                        self.absorb(rows, (k, v), chunk, running_max, total, own);
                    } else {
                        self.absorb(rows, (k, v), chunk, running_max, total, own);
                    }
                }
                self.fold(state, total);
            },
        );
    }

    /// Writes outputs of the non-causal form, which reads the final state.
    fn read(&self, head: usize, tokens: Range<usize>, states: &[f32]) {
        let Qkv { heads, kv_heads, dim_v, .. } = self.run.qkv;
        let (batch, head) = (head / heads, head % heads);
        let head = Head { batch, head, kv_head: head / self.run.qkv.group() };
        let state = &states[(batch * kv_heads + head.kv_head) * self.state_len()..][..self.state_len()];
        let rows = tokens.len().min(READ);
        let sizes = [rows * self.features().tile_len(), rows * dim_v, rows, self.features().space_len(rows)];
        threads::scratch(sizes, |[q_space, out, factors, space]| {
            for first in tokens.clone().step_by(rows) {
                let chunk = first..(first + rows).min(tokens.end);
                let q = self.features().tile(&self.tensors.q, self.shared(head), chunk.clone(), q_space);
                let running_max = state[state.len() - 1];
                let state = state[..self.sums_len()].split_at(self.matrix_len());
                self.features().read(chunk.len(), q, state, out, factors, space);
                self.finish(head, chunk, out, factors, |i| running_max + self.features().top(q, i));
            }
        });
    }

    /// Scales the rows, divides them by their weights if normalised, applies the epilogue and stores them. If features
    /// are relative, row i and its weight still lack the factor `e^log(i)`.
    fn finish(
        &self,
        head: Head,
        tokens: Range<usize>,
        rows: &mut [f32],
        factors: &mut [f32],
        log: impl Fn(usize) -> f32,
    ) {
        let (scale, dim_v, relative) = (self.run.scale, self.run.qkv.dim_v, self.features().relative());
        for (i, factor) in factors[..tokens.len()].iter_mut().enumerate() {
            // A query without any weight gives zeros.
            let over = |divisor: f32| if divisor == 0.0 { 0.0 } else { scale / divisor };
            *factor = match self.run.norm_eps {
                Some(eps) if relative => {
                    let divisor = scale * *factor + eps * simd::exp_signed::<false>((-log(i)).min(88.0));
                    // A weight may be so small that its reciprocal would overflow.
                    let lift = if divisor < 1e-30 { 2f32.powi(100) } else { 1.0 };
                    simd::scale(&mut rows[i * dim_v..][..dim_v], lift);
                    over(divisor * lift)
                }
                Some(eps) => over(scale * *factor + eps),
                None if relative => {
                    // Multiplied in two steps, because the whole factor may overflow.
                    let half = simd::exp_signed::<false>((0.5 * log(i)).min(88.0));
                    simd::scale(&mut rows[i * dim_v..][..dim_v], half);
                    scale * half
                }
                None => scale,
            };
        }
        if let Some(finish) = self.finish {
            finish(head, tokens.clone(), &mut rows[..tokens.len() * self.run.qkv.dim_v]);
        }
        // SAFETY: segments do not overlap, nor do blocks of queries, and each of them is processed once.
        unsafe { self.o.store(head.batch, head.head, tokens, rows, factors) };
    }
}
