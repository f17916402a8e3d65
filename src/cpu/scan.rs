//! The scan over segments of a sequence.

use super::threads::{SMALL, each_mut, zeros};

/// A recurrence over a sequence in segments of fixed length, for several units (batch x head), each with its own state.
///
/// The state at the start of a segment is the initial state with the sums of all earlier segments folded in one by one,
/// from the left. Each of these sums is computed from zero. The results therefore do not depend on who computes what.
/// `run` has two ways: either every unit processes its segments in order, or the sums of all segments are computed
/// first, on as many threads as there are segments, which means doing that part of the work twice.
pub(crate) struct Scan {
    /// Number of independent recurrences.
    pub(crate) units: usize,
    /// Segments per unit.
    pub(crate) segments: usize,
    /// Floats of one state.
    pub(crate) state: usize,
    /// Flops to compute the sum of a segment.
    pub(crate) sum_work: u64,
    /// Flops to process a segment: its outputs and its sum.
    pub(crate) walk_work: u64,
}

impl Scan {
    /// Processes all segments. `states` holds the initial state of every unit, and at the end the last one.
    /// `sum(unit, segment, out)` computes the sum of a segment. `fold(state, sum)` folds it into the state before the
    /// segment. `walk(unit, segment, state)` receives the state before the segment, computes the outputs, and makes it
    /// the state after.
    pub(crate) fn run(
        &self,
        states: &mut [f32],
        sum: impl Fn(usize, usize, &mut [f32]) + Sync,
        fold: impl Fn(&mut [f32], &[f32]),
        walk: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        if self.one_pass(self.threads(self.walk_work)) {
            each_mut(states, self.state, self.segments as u64 * self.walk_work, |unit, state| {
                (0..self.segments).for_each(|segment| walk(unit, segment, state));
            });
        } else {
            self.sums(states, sum, fold, |first, count, starts| {
                each_mut(starts, self.state, self.walk_work, |i, state| walk(i / count, first + i % count, state));
            });
        }
    }

    /// Folds the sums of all segments into `states`, from the left, in waves of some segments. After each wave, calls
    /// `after(first, count, starts)` with the states before its segments, `count` for every unit.
    pub(crate) fn sums(
        &self,
        states: &mut [f32],
        sum: impl Fn(usize, usize, &mut [f32]) + Sync,
        fold: impl Fn(&mut [f32], &[f32]),
        mut after: impl FnMut(usize, usize, &mut [f32]),
    ) {
        // Waves limit the memory for the states of long sequences, and keep the data of the second pass in the cache.
        let wave = (8 * self.threads(self.sum_work)).div_ceil(self.units).min(self.segments);
        let mut memory = zeros(self.units * wave * self.state);
        let mut before = vec![0.0; self.state];
        for first in (0..self.segments).step_by(wave) {
            let count = wave.min(self.segments - first);
            let starts = &mut memory[..self.units * count * self.state];
            each_mut(starts, self.state, self.sum_work, |i, out| sum(i / count, first + i % count, out));
            for (state, starts) in states.chunks_exact_mut(self.state).zip(starts.chunks_exact_mut(count * self.state))
            {
                for start in starts.chunks_exact_mut(self.state) {
                    before.copy_from_slice(state);
                    fold(state, start);
                    start.copy_from_slice(&before);
                }
            }
            after(first, count, starts);
        }
    }

    fn threads(&self, segment_work: u64) -> usize {
        let work = segment_work.saturating_mul((self.units * self.segments) as u64);
        if work < SMALL { 1 } else { rayon::current_num_threads() }
    }

    /// Whether distributing whole units over the threads is as fast as distributing all segments, which computes the
    /// sums twice.
    fn one_pass(&self, threads: usize) -> bool {
        let once = (self.units.div_ceil(threads) * self.segments) as u64 * self.walk_work;
        let twice = (self.units * self.segments).div_ceil(threads) as u64 * (self.walk_work + self.sum_work);
        once <= twice
    }
}
