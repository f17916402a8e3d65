//! The `cpu` backend: chunks of tokens through matrix products, over fixed segments.
//!
//! Inside a chunk queries meet keys as scores, lower triangle only; what came before the chunk they meet through the
//! state. A segment sums its own keys and values from zero, and a chunk reads that sum plus the state before the
//! segment: then the state at every segment is a fold of segment sums from the left, whether one thread walks all
//! segments or each is walked by another (see [`Scan`]).

use std::ops::Range;

use super::{Config, FeatureMap};
use crate::ops::Qkv;
use crate::ops::cpu::{self, Map, Mat, Onto, Output, Scan, Source, product};
use crate::tensor::{HostTensor, TensorMap, Values};

/// Tokens in a chunk. Larger ones spend more on scores above the triangle, smaller ones more on packing for products;
/// from 32 to 64 the time is the same within a tenth for head dims of 32 to 256.
const CHUNK: usize = 32;

/// Tokens in a segment where the configuration names none: long enough that the state before it costs little to add, short
/// enough that one head keeps several threads busy.
const SEGMENT: usize = 1024;

/// Runs the operator; tensors as [`crate::ops::Operator::cpu`] says.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let c = config;
    let job = Job::new(c, tensors);
    let mut states = job.initial(tensors);
    let segments = c.qkv.keys.div_ceil(job.segment);
    let scan = Scan {
        units: c.qkv.batch * c.qkv.kv_heads,
        segments,
        state: job.state_len(),
        sum_work: job.flops(job.segment.min(c.qkv.keys), 0),
        walk_work: job.flops(job.segment.min(c.qkv.keys), c.qkv.group()),
    };
    let sum = |unit, segment, out: &mut [f32]| job.sum(unit, segment, out);
    if c.causal {
        scan.run(&mut states, sum, |unit, segment, state| job.walk(unit, segment, state));
    } else {
        scan.sums(&mut states, sum, |_, _, _| {});
        let tasks = c.qkv.queries.div_ceil(SEGMENT);
        let work = 2 * (c.qkv.batch * c.qkv.heads * c.qkv.queries * c.qkv.dim_k * c.qkv.dim_v) as u64;
        cpu::each(c.qkv.batch * c.qkv.heads * tasks, work, |task| {
            let first = task % tasks * SEGMENT;
            job.read(task / tasks, first..(first + SEGMENT).min(c.qkv.queries), &states);
        });
    }

    let mut outputs = TensorMap::new();
    outputs.insert("o", job.o.finish());
    if c.carry {
        let (s, z) = (c.qkv.dim_k * c.qkv.dim_v, scan.state);
        let part = |range: Range<usize>| states.chunks_exact(z).flat_map(|x| &x[range.clone()]).copied().collect();
        outputs.insert("state", HostTensor::f32([c.qkv.batch, c.qkv.kv_heads, c.qkv.dim_k, c.qkv.dim_v], part(0..s)));
        if c.normalize {
            outputs.insert("norm", HostTensor::f32([c.qkv.batch, c.qkv.kv_heads, c.qkv.dim_k], part(s..z)));
        }
    }
    outputs
}

/// One line for people.
pub(super) fn variant(config: &Config) -> String {
    let segment = config.segment.unwrap_or(SEGMENT);
    format!("chunks of {}, segments of {segment}", CHUNK.min(segment))
}

/// One run: the tensors and where outputs go.
struct Job<'a> {
    config: &'a Config,
    q: Source<'a>,
    k: Source<'a>,
    v: Source<'a>,
    o: Output,
    segment: usize,
}

impl<'a> Job<'a> {
    fn new(config: &'a Config, tensors: &'a TensorMap) -> Self {
        let map: Map = match config.feature_map {
            FeatureMap::Elu1 => Some(cpu::elu1),
            FeatureMap::Relu => Some(cpu::relu),
            FeatureMap::Identity => None,
        };
        let source = |name: &str, map| {
            let tensor = tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
            Source::new(tensor, config.qkv.layout, map)
        };
        let o = [config.qkv.batch, config.qkv.heads, config.qkv.queries, config.qkv.dim_v];
        Self {
            config,
            q: source("q", map),
            k: source("k", map),
            v: source("v", None),
            o: Output::new(config.qkv.dtype, config.qkv.layout, o),
            segment: config.segment.unwrap_or(SEGMENT),
        }
    }

    /// Floats of one state: the matrix, then the normaliser if there is one.
    fn state_len(&self) -> usize {
        let Config { qkv: Qkv { dim_k, dim_v, .. }, normalize, .. } = *self.config;
        dim_k * (dim_v + usize::from(normalize))
    }

    /// States given, zero otherwise.
    fn initial(&self, tensors: &TensorMap) -> Vec<f32> {
        let c = self.config;
        let mut states = vec![0.0; c.qkv.batch * c.qkv.kv_heads * self.state_len()];
        let matrix = c.qkv.dim_k * c.qkv.dim_v;
        for (name, at, len) in [("state", 0, matrix), ("norm", matrix, c.qkv.dim_k)] {
            if c.carry
                && at + len <= self.state_len()
                && let Some(Values::F32(given)) = tensors.get(name).map(HostTensor::values)
            {
                for (state, given) in states.chunks_exact_mut(self.state_len()).zip(given.chunks_exact(len)) {
                    state[at..at + len].copy_from_slice(given);
                }
            }
        }
        states
    }

    /// Work on so many tokens of a key head, read by so many query heads.
    fn flops(&self, tokens: usize, readers: usize) -> u64 {
        let Config { qkv: Qkv { dim_k: d, dim_v: e, .. }, .. } = *self.config;
        (tokens * (2 * d * e + readers * (2 * d * e + 2 * CHUNK * (d + e)))) as u64
    }

    /// Tokens of a segment, chunk by chunk.
    fn chunks(&self, segment: usize) -> impl Iterator<Item = Range<usize>> {
        let start = segment * self.segment;
        let end = (start + self.segment).min(self.config.qkv.keys);
        (start..end).step_by(CHUNK).map(move |first| first..(first + CHUNK).min(end))
    }

    /// Rows of the largest chunk.
    fn rows(&self) -> usize {
        CHUNK.min(self.segment).min(self.config.qkv.keys)
    }

    /// Writes the sum of a segment.
    fn sum(&self, unit: usize, segment: usize, total: &mut [f32]) {
        let Config { qkv: Qkv { kv_heads, dim_k, dim_v, .. }, .. } = *self.config;
        total.fill(0.0);
        cpu::scratch([self.rows() * dim_k, self.rows() * dim_v], |[k_space, v_space]| {
            for chunk in self.chunks(segment) {
                let k = self.k.tile(unit / kv_heads, unit % kv_heads, chunk.clone(), k_space);
                let v = self.v.tile(unit / kv_heads, unit % kv_heads, chunk.clone(), v_space);
                self.absorb(chunk.len(), k, v, total);
            }
        });
    }

    /// Writes the outputs of a segment; `state`, the one before it, becomes the one after.
    fn walk(&self, unit: usize, segment: usize, state: &mut [f32]) {
        let Config { qkv: Qkv { kv_heads, dim_k, dim_v, .. }, .. } = *self.config;
        let (batch, kv_head) = (unit / kv_heads, unit % kv_heads);
        let (rows, n) = (self.rows(), self.state_len());
        let sizes = [n, n, rows * dim_k, rows * dim_v, rows * dim_k, rows * rows, rows * dim_v, rows];
        cpu::scratch(sizes, |[total, before, k_space, v_space, q_space, scores, out, factors]| {
            total.fill(0.0);
            before.copy_from_slice(state);
            for (i, chunk) in self.chunks(segment).enumerate() {
                if i > 0 {
                    cpu::add_into(before, state, total);
                }
                let rows = chunk.len();
                let k = self.k.tile(batch, kv_head, chunk.clone(), k_space);
                let v = self.v.tile(batch, kv_head, chunk.clone(), v_space);
                for head in self.readers(kv_head) {
                    let q = self.q.tile(batch, head, chunk.clone(), q_space);
                    product([rows, dim_k, rows], q, k.t(), Onto::Nothing, scores, rows);
                    // Cleared, not multiplied by zero: later tokens must not show however large they are. (Only values that
                    // are not finite show within their chunk, by way of the zeros.)
                    for (i, row) in scores.chunks_mut(rows).take(rows).enumerate() {
                        row[i + 1..].fill(0.0);
                    }
                    product([rows, dim_k, dim_v], q, Mat::rows(before, dim_v), Onto::Nothing, out, dim_v);
                    product([rows, rows, dim_v], Mat::rows(scores, rows), v, Onto::Sum, out, dim_v);
                    self.factors(rows, q, before, factors);
                    if self.config.normalize {
                        for (weight, row) in factors.iter_mut().zip(scores.chunks(rows)).take(rows) {
                            *weight += cpu::sum(row);
                        }
                    }
                    self.finish(batch, head, chunk.clone(), out, factors);
                }
                self.absorb(rows, k, v, total);
            }
            cpu::add(state, total);
        });
    }

    /// Writes outputs of the non-causal form, from the last state.
    fn read(&self, head: usize, tokens: Range<usize>, states: &[f32]) {
        let Config { qkv: Qkv { heads, kv_heads, dim_k, dim_v, .. }, .. } = *self.config;
        let (batch, head) = (head / heads, head % heads);
        let unit = batch * kv_heads + head / self.config.qkv.group();
        let state = &states[unit * self.state_len()..][..self.state_len()];
        // No triangle to skip here, so more rows at a time.
        let rows = tokens.len().min(8 * CHUNK);
        cpu::scratch([rows * dim_k, rows * dim_v, rows], |[q_space, out, factors]| {
            for first in tokens.clone().step_by(rows) {
                let chunk = first..(first + rows).min(tokens.end);
                let q = self.q.tile(batch, head, chunk.clone(), q_space);
                product([chunk.len(), dim_k, dim_v], q, Mat::rows(state, dim_v), Onto::Nothing, out, dim_v);
                self.factors(chunk.len(), q, state, factors);
                self.finish(batch, head, chunk, out, factors);
            }
        });
    }

    /// Query heads that read this key head.
    fn readers(&self, kv_head: usize) -> Range<usize> {
        let group = self.config.qkv.group();
        kv_head * group..(kv_head + 1) * group
    }

    /// Adds the keys and values of a chunk to a sum.
    fn absorb(&self, rows: usize, k: Mat<'_>, v: Mat<'_>, total: &mut [f32]) {
        let Config { qkv: Qkv { dim_k, dim_v, .. }, .. } = *self.config;
        let (matrix, norm) = total.split_at_mut(dim_k * dim_v);
        product([dim_k, rows, dim_v], k.t(), v, Onto::Sum, matrix, dim_v);
        if self.config.normalize {
            (0..rows).for_each(|i| cpu::add(norm, k.row(i, dim_k)));
        }
    }

    /// Weight of the state in every row: `phi(q) . z`.
    fn factors(&self, rows: usize, q: Mat<'_>, state: &[f32], factors: &mut [f32]) {
        let Config { qkv: Qkv { dim_k, dim_v, .. }, normalize, .. } = *self.config;
        if normalize {
            let norm = &state[dim_k * dim_v..];
            for (i, weight) in factors[..rows].iter_mut().enumerate() {
                *weight = cpu::dot(q.row(i, dim_k), norm);
            }
        }
    }

    /// Scales rows, by their weights if normalised, and stores them.
    fn finish(&self, batch: usize, head: usize, tokens: Range<usize>, rows: &mut [f32], factors: &mut [f32]) {
        let scale = self.config.effective_scale();
        for factor in &mut factors[..tokens.len()] {
            *factor = if self.config.normalize { scale / (scale * *factor + self.config.norm_eps) } else { scale };
        }
        // SAFETY: segments, and blocks of queries, do not overlap, and each is walked or read once.
        unsafe { self.o.store(batch, head, tokens, rows, factors) };
    }
}
