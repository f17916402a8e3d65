//! A schedule is a list of recordings. It knows their cost and splits them into submissions.
//!
//! In a caller's encoder a schedule only records. The command and `bench` submit it in parts, so that no submission
//! occupies a desktop's GPU long enough for the watchdog to reset it.

use std::fmt;
use std::ops::Range;

use super::program::Cost;
use super::recording::Recording;

/// Recordings in order.
#[derive(Debug, Default)]
pub struct Schedule {
    recordings: Vec<Recording>,
}

/// A part of a schedule for one submission.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// Recording index and range of its dispatches, in order.
    pub parts: Vec<(usize, Range<usize>)>,
    /// Their work.
    pub cost: Cost,
}

impl Schedule {
    /// An empty schedule.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a recording.
    pub fn push(&mut self, recording: Recording) -> &mut Self {
        self.recordings.push(recording);
        self
    }

    /// The recordings, in order.
    pub fn recordings(&self) -> &[Recording] {
        &self.recordings
    }

    /// Work of all of them.
    pub fn cost(&self) -> Cost {
        self.recordings.iter().map(Recording::cost).sum()
    }

    /// Number of dispatches of each operator, in the order in which the operators first appear.
    pub fn dispatches(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for recording in &self.recordings {
            match counts.iter_mut().find(|(op, _)| *op == recording.op()) {
                Some((_, count)) => *count += recording.len(),
                None => counts.push((recording.op(), recording.len())),
            }
        }
        counts
    }

    /// Records everything into the caller's encoder.
    pub fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        for recording in &self.recordings {
            recording.encode(encoder);
        }
    }

    /// Records one submission.
    pub fn encode_submission(&self, encoder: &mut wgpu::CommandEncoder, submission: &Submission) {
        for (recording, range) in &submission.parts {
            self.recordings[*recording].encode_range(encoder, range.clone());
        }
    }

    /// Records one submission into the caller's pass.
    pub fn encode_submission_in(&self, pass: &mut wgpu::ComputePass<'_>, submission: &Submission) {
        for (recording, range) in &submission.parts {
            self.recordings[*recording].encode_range_in(pass, range.clone());
        }
    }

    /// Splits the schedule into submissions of at most `flops` operations. A dispatch above that gets its own
    /// submission.
    pub fn submissions(&self, flops: f64) -> Vec<Submission> {
        let mut list: Vec<Submission> = Vec::new();
        for (index, recording) in self.recordings.iter().enumerate() {
            for (step, info) in recording.steps().enumerate() {
                match list.last_mut() {
                    Some(last) if last.cost.flops + info.cost.flops <= flops => {
                        last.cost = last.cost + info.cost;
                        match last.parts.last_mut() {
                            Some((r, range)) if *r == index => range.end = step + 1,
                            _ => last.parts.push((index, step..step + 1)),
                        }
                    }
                    _ => list.push(Submission { parts: vec![(index, step..step + 1)], cost: info.cost }),
                }
            }
        }
        list
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, recording) in self.recordings.iter().enumerate() {
            writeln!(f, "{} {}:", i + 1, recording.op())?;
            for line in recording.to_string().lines() {
                writeln!(f, "  {line}")?;
            }
        }
        let cost = self.cost();
        writeln!(f, "in all {:.3} MFLOP, {:.3} MB", cost.flops / 1e6, cost.bytes() / 1e6)
    }
}
