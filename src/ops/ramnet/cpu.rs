//! The `cpu` backend: threads process heads, token by token, and each memory belongs to one thread. The cost of a token
//! does not depend on the length nor, as far as caches suffice, on the number of slots.

use super::{Config, Rule};
use crate::cpu::simd::wide;
use crate::cpu::threads;
use crate::cpu::tiles::{Output, Source};
use crate::ops::primitives::beam::{self, Beam};
use crate::tensor::{HostTensor, Layout, TensorMap, Values};

/// Tokens loaded and stored at a time.
const CHUNK: usize = 64;

/// Tokens whose rows are prefetched ahead of the current one: about a hundred cache lines.
const AHEAD: usize = 2;

/// Describes the algorithm, for people.
pub(super) fn variant() -> String {
    format!("token after token, {CHUNK} loaded at a time")
}

/// Runs the operator. [`crate::operator::Operator::cpu`] describes the tensors.
pub(super) fn run(config: &Config, tensors: &TensorMap) -> TensorMap {
    let s = config.qkv;
    let tensor = |name: &str| tensors.get(name).unwrap_or_else(|| panic!("tensor {name} is missing"));
    let source = |name: &str| Source::new(tensor(name), s.layout, None);
    let quantised = config.quantize().map(|quantize| quantize.quantised(tensor("v"), tensor("codebook")));
    let values = quantised.as_ref().and_then(|found| found.get("o"));
    let (q, k, v) = (source("q"), source("k"), Source::new(values.unwrap_or_else(|| tensor("v")), s.layout, None));
    let columns = match s.layout {
        Layout::Bhnd => [s.batch, s.heads, s.queries, 1],
        Layout::Bnhd => [s.batch, s.queries, s.heads, 1],
    };
    let gamma = tensor("gamma").clone().reshape(columns);
    let gamma = Source::new(&gamma, s.layout, None);
    let position = match tensors.get("position").map(HostTensor::values) {
        Some(Values::I64(position)) => position[0] as u64,
        _ => 0,
    };

    let (units, slots, e) = (s.batch * s.heads, config.slots_of_a_head(), s.dim_v);
    // Each memory holds the contents of all slots, then their masses.
    let size = slots * (e + 1);
    let mut memories = threads::zeros(units * size);
    for (what, at, len, initial) in [("state", 0, slots * e, 0.0), ("mass", slots * e, slots, config.initial_mass())] {
        let given = tensors.get(what).map(HostTensor::to_f32);
        for (unit, memory) in memories.chunks_exact_mut(size).enumerate() {
            match &given {
                Some(given) => memory[at..at + len].copy_from_slice(&given[unit * len..][..len]),
                None if initial != 0.0 => memory[at..at + len].fill(initial),
                None => {}
            }
        }
    }

    let o = Output::new(s.dtype, s.layout, [s.batch, s.heads, s.queries, e]);
    let work = (s.queries * (5 * config.topk * e + 16 * config.topk * s.dim_k)) as u64;
    threads::each_mut(&mut memories, size, work, |unit, memory| {
        let (batch, head) = (unit / s.heads, unit % s.heads);
        let (content, mass) = memory.split_at_mut(slots * e);
        let cape = config.cape.has(head);
        let mut find = Finder::new(config);
        let (mut writes, mut reads) = (Access::new(config.topk), Access::new(config.topk));
        threads::scratch([CHUNK * s.dim_k, CHUNK * s.dim_k, CHUNK * e, CHUNK, CHUNK * e], |[qs, ks, vs, gs, rows]| {
            for first in (0..s.queries).step_by(CHUNK) {
                let tokens = first..(first + CHUNK).min(s.queries);
                let (qs, ks) = (q.tile(batch, head, tokens.clone(), qs), k.tile(batch, head, tokens.clone(), ks));
                let (vs, gs) = (v.tile(batch, head, tokens.clone(), vs), gamma.tile(batch, head, tokens.clone(), gs));
                // All addresses are computed first, so that rows of later tokens can be prefetched while earlier tokens
                // are processed.
                for i in 0..tokens.len() {
                    let shift = ((position + (first + i) as u64) % slots as u64) as usize;
                    let shift = if cape { shift } else { 0 };
                    find.token(ks.row(i, s.dim_k), slots, shift, writes.token_mut(i));
                    find.token(qs.row(i, s.dim_k), slots, shift, reads.token_mut(i));
                }
                for (i, row) in rows.chunks_exact_mut(e).enumerate().take(tokens.len()) {
                    if i + AHEAD < tokens.len() {
                        let ahead = writes.token(i + AHEAD).0.iter().chain(reads.token(i + AHEAD).0);
                        ahead.for_each(|slot| fetch(&content[slot * e..][..e]));
                    }
                    let (at, weights) = writes.token_mut(i);
                    rates(config, gs.row(i, 1)[0], mass, at, weights);
                    write(content, at, weights, vs.row(i, e));
                    let (at, weights) = reads.token(i);
                    read(content, at, weights, row);
                }
                // SAFETY: every token of every head is stored once.
                unsafe { o.store(batch, head, tokens, rows, &[1.0; CHUNK]) };
            }
        });
    });

    let mut outputs: TensorMap = [("o".to_owned(), o.finish())].into_iter().collect();
    if let Some(code) = quantised.and_then(|mut found| found.remove("code")) {
        outputs.insert("code", code);
    }
    if config.mode.carry {
        let gather =
            |at: usize, len: usize| memories.chunks_exact(size).flat_map(|m| &m[at..at + len]).copied().collect();
        outputs.insert("state", HostTensor::f32([s.batch, s.heads, slots, e], gather(0, slots * e)));
        outputs.insert("mass", HostTensor::f32([s.batch, s.heads, slots], gather(slots * e, slots)));
        let position = position.wrapping_add(s.queries as u64) as i64;
        outputs.insert("position", HostTensor::new([1], Values::I64(vec![position])));
    }

    outputs
}

/// The slots of the tokens of a chunk, K per token, with their weights or rates.
struct Access {
    topk: usize,
    slots: Vec<usize>,
    weights: Vec<f32>,
}

impl Access {
    fn new(topk: usize) -> Self {
        Self { topk, slots: vec![0; CHUNK * topk], weights: vec![0.0; CHUNK * topk] }
    }

    fn token(&self, i: usize) -> (&[usize], &[f32]) {
        (&self.slots[i * self.topk..][..self.topk], &self.weights[i * self.topk..][..self.topk])
    }

    fn token_mut(&mut self, i: usize) -> (&mut [usize], &mut [f32]) {
        (&mut self.slots[i * self.topk..][..self.topk], &mut self.weights[i * self.topk..][..self.topk])
    }
}

/// Computes the slots that a token addresses.
struct Finder {
    beam: Beam,
    shares: Vec<f32>,
    choices: usize,
    tau: f32,
}

impl Finder {
    fn new(config: &Config) -> Self {
        let beam = Beam::new(config.choices, config.topk);
        Self { beam, shares: vec![0.0; config.qkv.dim_k], choices: config.choices, tau: config.tau }
    }

    /// Computes the slots addressed by these logits, and their weights.
    fn token(&mut self, logits: &[f32], slots: usize, shift: usize, (at, weights): (&mut [usize], &mut [f32])) {
        self.shares.copy_from_slice(logits);
        beam::shares(&mut self.shares, self.choices, self.tau);
        for (address, (slot, weight)) in self.beam.top(logits).zip(at.iter_mut().zip(weights)) {
            *weight = beam::weight(&self.shares, self.choices, address);
            *slot = if address >= shift { address - shift } else { address + slots - shift };
        }
    }
}

/// Prefetches a row.
fn fetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is only a hint and reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}

/// Updates the masses, and replaces the weights by the rates.
fn rates(config: &Config, gamma: f32, mass: &mut [f32], slots: &[usize], weights: &mut [f32]) {
    let (eps, growth) = (config.effective_mass_eps(), gamma.exp());
    for (&slot, weight) in slots.iter().zip(weights) {
        let w = *weight;
        if w == 0.0 {
            continue;
        }
        let kept = match config.rule {
            _ if gamma == f32::INFINITY => 0.0,
            _ if gamma == f32::NEG_INFINITY => 1.0,
            Rule::Gsu if w < 1.0 => 1.0 / (1.0 + growth * (w / (1.0 - w))),
            Rule::Gsu => 0.0,
            // 0^0 = 1.
            Rule::Pdma if gamma == 0.0 => 1.0,
            Rule::Pdma => (gamma * (-w).ln_1p()).exp(),
        };
        let m = kept * mass[slot] + w;
        mass[slot] = m;
        *weight = w / (m + eps);
    }
}

wide! {
    /// Moves the slots towards the value, each by its rate.
    fn write(content: &mut [f32], slots: &[usize], rates: &[f32], value: &[f32]) {
        for (&slot, &rate) in slots.iter().zip(rates) {
            if rate != 0.0 {
                let row = &mut content[slot * value.len()..][..value.len()];
                for (x, v) in row.iter_mut().zip(value) {
                    *x += rate * (v - *x);
                }
            }
        }
    }
}

wide! {
    /// Sums the slots times their weights, the largest weight first.
    fn read(content: &[f32], slots: &[usize], weights: &[f32], row: &mut [f32]) {
        row.fill(0.0);
        for (&slot, &weight) in slots.iter().zip(weights) {
            if weight != 0.0 {
                let content = &content[slot * row.len()..][..row.len()];
                for (x, c) in row.iter_mut().zip(content) {
                    *x += weight * c;
                }
            }
        }
    }
}
