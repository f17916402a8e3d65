//! The delta rules on the `cpu` backend: chunks of tokens are processed with matrix products, head by head. If there
//! are few heads, the columns of a state are divided among tasks.
//!
//! Within a chunk, the rows that tokens write are the solution U of a triangular system (the WY form): row t of U is
//! `beta_t (v_t - S^T k_t - sum_{s < t} (k_t . k_s) u_s)`, with the decay by the tokens between. It is solved by
//! substitution. Outputs and the state then use U in place of the values. Strengths for which that is not accurate are taken
//! token by token, from the first of them to the end of the chunk (`delta_steps`).

use crate::cpu::threads;
use std::ops::Range;

use super::Config;
use super::cpu::{decay, log_decays, source, strengths};
use super::delta_steps as steps;
use crate::cores::recurrence::cpu::{Head, ROW_CHUNK};
use crate::cores::recurrence::cpu_decay::{self as decays, Decay, Space};
use crate::cpu::matrix::{Mat, Onto, product, product_of_lower, product_to_diagonal};
use crate::cpu::simd::{self, wide};
use crate::cpu::tiles::{Output, Source};
use crate::operator::qkv::Qkv;
use crate::tensor::{HostTensor, TensorMap, Values};

/// Tokens per chunk. Larger chunks spend more time on the system and on scores, smaller ones on loading and storing the state.
const CHUNK: usize = 32;

/// If there are fewer heads than `TASKS`, the columns of a state are divided among tasks of at least `LEAST_COLUMNS`.
const TASKS: usize = 8;
const LEAST_COLUMNS: usize = 32;

/// One run: the configuration, its tensors and the output buffer.
struct Job<'a> {
    c: &'a Config,
    q: Source<'a>,
    k: Source<'a>,
    v: Source<'a>,
    beta: Source<'a>,
    decay: Decay<'a>,
    o: Output,
}

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let s = &config.qkv;
    let source = |name: &str| source(config, tensors, name, None);
    let (g, beta) = (log_decays(config, tensors), strengths(config, tensors));
    let job = Job {
        c: config,
        q: source("q"),
        k: source("k"),
        v: source("v"),
        beta: Source::new(&beta, s.layout, None),
        decay: decay(config, g.as_deref()),
        o: Output::new(s.dtype, s.layout, [s.batch, s.heads, s.queries, s.dim_v]),
    };
    // The states of all key heads as blocks of columns, `[D, columns]` each, so that tasks share no memory.
    let columns = columns(s);
    let blocks = s.dim_v.div_ceil(columns);
    let mut states = threads::zeros(s.kv_units() * blocks * s.dim_k * columns);
    let block_of = |task: usize| {
        let first = task % blocks * columns;
        first..(first + columns).min(s.dim_v)
    };
    let given = tensors.get("state").filter(|_| config.mode.carry).map(HostTensor::values);
    if let Some(Values::F32(given)) = given {
        for (task, state) in states.chunks_exact_mut(s.dim_k * columns).enumerate() {
            let rows = given[task / blocks * s.dim_k * s.dim_v..].chunks_exact(s.dim_v);
            let width = block_of(task).len();
            state.chunks_exact_mut(width).zip(rows.take(s.dim_k)).for_each(|(state, row)| {
                state.copy_from_slice(&row[block_of(task)]);
            });
        }
    }
    let work = (s.keys * s.dim_k * columns * (4 + 2 * s.group())) as u64;
    threads::each_mut(&mut states, s.dim_k * columns, work, |task, state| {
        job.walk(task / blocks, block_of(task), state)
    });

    let mut outputs = TensorMap::new();
    outputs.insert("o", job.o.finish());
    if config.mode.carry {
        let mut whole = threads::zeros(s.kv_units() * s.dim_k * s.dim_v);
        for (task, state) in states.chunks_exact(s.dim_k * columns).enumerate() {
            let rows = whole[task / blocks * s.dim_k * s.dim_v..].chunks_exact_mut(s.dim_v);
            let width = block_of(task).len();
            state.chunks_exact(width).zip(rows.take(s.dim_k)).for_each(|(state, row)| {
                row[block_of(task)].copy_from_slice(state);
            });
        }
        outputs.insert("state", HostTensor::f32([s.batch, s.kv_heads, s.dim_k, s.dim_v], whole));
    }
    outputs
}

/// Number of columns per task.
fn columns(s: &Qkv) -> usize {
    let blocks = TASKS.div_ceil(s.kv_units());
    s.dim_v.div_ceil(blocks).max(LEAST_COLUMNS).min(s.dim_v)
}

/// Describes the chunks, for people.
pub(super) fn variant(config: &Config) -> String {
    format!("chunks of {}, {} columns at a time", chunk(config), columns(&config.qkv))
}

/// Tokens per chunk.
fn chunk(c: &Config) -> usize {
    let most = if c.gates_each() > 1 { ROW_CHUNK } else { CHUNK };
    most.min(c.mode.segment.unwrap_or(most)).min(c.qkv.keys)
}

/// Solves the triangular system of `rows` rows of length `width`. At the start, row t of `u` is `v_t - S^T k_t`; at the end, it is
/// the row that token t writes. `overlaps[t, s]`, which is overwritten, is the product of keys t and s, with the decay between
/// them.
fn solve(rows: usize, width: usize, overlaps: &mut [f32], beta: &[f32], u: &mut [f32]) {
    let each = overlaps.chunks_exact_mut(rows).zip(u.chunks_exact_mut(width));
    for ((overlaps, u), beta) in each.zip(beta) {
        simd::scale(overlaps, -beta);
        simd::scale(u, *beta);
    }
    // What earlier blocks of rows write comes by a product.
    for first in (0..rows).step_by(BLOCK) {
        let block = BLOCK.min(rows - first);
        let (before, rest) = u.split_at_mut(first * width);
        let rest = &mut rest[..block * width];
        let factors = &overlaps[first * rows..];
        product([block, first, width], Mat::rows(factors, rows), Mat::rows(before, width), Onto::Sum, rest, width);
        for t in 1..block {
            let (before, row) = rest.split_at_mut(t * width);
            add_rows(&mut row[..width], before, &factors[t * rows + first..][..t]);
        }
    }
}

/// Rows that are solved for one by one.
const BLOCK: usize = 8;

wide! {
    /// `row += factors before`.
    fn add_rows<FUSED>(row: &mut [f32], before: &[f32], factors: &[f32]) {
        for (other, factor) in before.chunks_exact(row.len()).zip(factors) {
            for (x, y) in row.iter_mut().zip(other) {
                *x = simd::multiply_add::<FUSED>(*factor, *y, *x);
            }
        }
    }
}

/// `out += scores u`, `[rows, width]`, for scores that are zero above the diagonal. Rows of `u` that overflowed have
/// no effect on rows of `out` before them: zero times infinity would be NaN.
fn add_lower(rows: usize, width: usize, scores: &[f32], u: &[f32], out: &mut [f32]) {
    let add = |u: &[f32], out: &mut [f32]| {
        product_of_lower([rows, rows, width], Mat::rows(scores, rows), Mat::rows(u, width), Onto::Sum, out, width);
    };
    if simd::finite(u) {
        return add(u, out);
    }
    let first = u.chunks_exact(width).position(|row| !simd::finite(row)).unwrap_or(rows);
    let mut before = u.to_vec();
    before[first * width..].fill(0.0);
    add(&before, out);
    for (i, row) in out.chunks_exact_mut(width).enumerate().skip(first) {
        (first..=i).for_each(|j| simd::add_scaled(row, &u[j * width..][..width], scores[i * rows + j]));
    }
}

impl Job<'_> {
    /// The token ranges of the chunks. Chunks start anew at the start of every segment.
    fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        let (keys, chunk) = (self.c.qkv.keys, chunk(self.c));
        let segment = self.c.mode.segment.unwrap_or(keys).min(keys);
        (0..keys).step_by(segment).flat_map(move |start| {
            let end = (start + segment).min(keys);
            (start..end).step_by(chunk).map(move |first| first..(first + chunk).min(end))
        })
    }

    /// Computes some columns of the outputs of a key head. `state`, `[D, columns]`, holds these columns of the first
    /// state, and at the end those of the last.
    fn walk(&self, unit: usize, columns: Range<usize>, state: &mut [f32]) {
        let Qkv { kv_heads, dim_k, dim_v, shared, .. } = self.c.qkv;
        let (group, most, width) = (self.c.qkv.group(), chunk(self.c), columns.len());
        let state = &mut state[..dim_k * width];
        let key_head = Head { batch: unit / kv_heads, head: unit % kv_heads, kv_head: unit % kv_heads };
        let each = self.decay.width(dim_k);
        let decayed = if each > 0 { most * dim_k } else { 0 };
        let readers = 1 + group;
        let (tile, square) = (most * dim_k, most * most);
        let sizes = [tile, most * dim_v, tile, most, readers * tile, readers * square, readers * most * width];
        let [k, v, q, beta, reads, scores, answers] = sizes;
        let sizes = [k, v, q, beta, reads, scores, answers, 2 * most * each, each, decayed, each, most];
        threads::scratch(sizes, |[k_space, v_space, q_space, betas, reads, scores, answers, rest @ ..]| {
            let [factors, logs, kept, left, row] = rest;
            // The first token that is left of the chunk, and the first that is taken by itself, as all behind it are.
            for (whole, mut start, mut first_single) in
                self.chunks().map(|whole| (whole.clone(), whole.start, whole.end))
            {
                'parts: while start < whole.end {
                    let single = start >= first_single;
                    let tokens = start..if single { start + 1 } else { first_single };
                    let rows = tokens.len();
                    let k = self.k.tile(key_head.batch, key_head.head / shared, tokens.clone(), k_space);
                    let v =
                        self.v.tile(key_head.batch, key_head.head, tokens.clone(), v_space).skip_cols(columns.start);
                    let beta = self.beta.tile(key_head.batch, key_head.head, tokens.clone(), betas);
                    let room = Space { factors: &mut *factors, logs: &mut *logs, scales: &mut [] };
                    let chunk = self.decay.chunk(key_head, tokens.clone(), room);
                    if single {
                        let (answer, out) = answers[..2 * width].split_at_mut(width);
                        decays::leave_rows(state, width, chunk.logs);
                        steps::read(k.row(0, dim_k), state, width, answer);
                        steps::write(k.row(0, dim_k), beta.row(0, 1)[0], v.row(0, width), answer, state);
                        for head in key_head.head * group..(key_head.head + 1) * group {
                            let q = self.q.tile(key_head.batch, head / shared, tokens.clone(), q_space);
                            steps::read(q.row(0, dim_k), state, width, out);
                            let scale = [self.c.effective_scale()];
                            // SAFETY: a token is in one part, and each part is processed once.
                            unsafe {
                                self.o.store_columns(
                                    key_head.batch,
                                    head,
                                    tokens.clone(),
                                    columns.clone(),
                                    out,
                                    &scale,
                                );
                            }
                        }
                        start = tokens.end;
                        continue;
                    }
                    let (square, tile) = (rows * rows, rows * dim_k);
                    for reader in 0..readers {
                        // Reader 0 is the keys, the other readers are the query heads.
                        let x = match reader {
                            0 => k,
                            _ => {
                                let head = key_head.head * group + reader - 1;
                                self.q.tile(key_head.batch, head / shared, tokens.clone(), q_space)
                            }
                        };
                        let scores = &mut scores[reader * square..][..square];
                        let reads = &mut reads[reader * tile..][..tile];
                        if let Decay::Row(_) = self.decay {
                            decays::scores(rows, dim_k, (x, k), chunk.factors, scores, kept);
                        } else {
                            product_to_diagonal([rows, dim_k, rows], x, k.t(), scores, rows);
                        }
                        if reader == 0 {
                            let taken = steps::taken(rows, scores, beta);
                            if taken < rows {
                                // Again, with these alone.
                                first_single = start + taken;
                                continue 'parts;
                            }
                        }
                        if !matches!(self.decay, Decay::Row(_)) {
                            // Overwritten, not multiplied by zero, so that later tokens have no effect however large they
                            // are.
                            scores.chunks_mut(rows).enumerate().for_each(|(i, row)| row[i + 1..].fill(0.0));
                            if each > 0 {
                                decays::between(rows, chunk, scores, row);
                            }
                        }
                        if each > 0 {
                            decays::reached(rows, x, dim_k, chunk.factors, reads, left);
                        } else {
                            reads
                                .chunks_exact_mut(dim_k)
                                .enumerate()
                                .for_each(|(i, to)| to.copy_from_slice(x.row(i, dim_k)));
                        }
                    }
                    let (reads, before) = (Mat::rows(reads, dim_k), Mat::rows(state, width));
                    product([readers * rows, dim_k, width], reads, before, Onto::Nothing, answers, width);

                    let (u, out) = answers[..readers * rows * width].split_at_mut(rows * width);
                    for (i, u) in u.chunks_exact_mut(width).enumerate() {
                        u.iter_mut().zip(v.row(i, width)).for_each(|(u, v)| *u = v - *u);
                        row[i] = beta.row(i, 1)[0];
                    }
                    solve(rows, width, &mut scores[..square], row, u);
                    let written = Mat::rows(u, width);
                    row[..rows].fill(self.c.effective_scale());
                    for (reader, out) in out.chunks_exact_mut(rows * width).enumerate() {
                        add_lower(rows, width, &scores[(reader + 1) * square..][..square], u, out);
                        let head = key_head.head * group + reader;
                        // SAFETY: chunks do not overlap, nor do the columns of tasks, and each of them is processed once.
                        unsafe {
                            self.o.store_columns(key_head.batch, head, tokens.clone(), columns.clone(), out, row);
                        }
                    }
                    let mut keys = k;
                    if each > 0 {
                        decays::kept(rows, k, dim_k, chunk, kept, left);
                        decays::leave_rows(state, width, chunk.logs);
                        keys = Mat::rows(kept, dim_k);
                    }
                    product([dim_k, rows, width], keys.t(), written, Onto::Sum, state, width);
                    start = tokens.end;
                }
            }
        });
    }
}
