//! What a device can do at most, measured: the yardsticks that times of operators are set beside.
//!
//! Copy bandwidth counts bytes read plus bytes written. The floor of an operator is the largest of its essential bytes at
//! copy bandwidth, its essential flops at the multiply-add rate and its exponentials at the exp2 rate: no kernel that
//! works with the same means can be faster, save where its tensors lie in a cache that the copy did not fit into.

use std::collections::HashMap;
use std::time::Instant;

use super::cpu::probes as host;
use super::measure::{Effort, Overhead, Place, RUNS, Timed, host_lap, sample, sample_on, warm};
use super::{Cost, DType};
use crate::error::Error;
use crate::gpu::{Context, Plan, Program, Schedule, Spread, Workspace, probes, readback};
use crate::tensor::{Access, HostTensor};

/// Bytes, read and written together, that pass all caches but those of the largest servers.
const PAST_CACHES: u64 = 512 << 20;
/// What is copied at least, on a device with little memory.
const SMALLEST_COPY: u64 = 32 << 20;

/// What a device can do at most. Rates are a second; each is the best of several timings, since nothing but other work
/// makes a probe slower.
#[derive(Debug, Clone)]
pub struct Ceilings {
    /// Bytes read plus bytes written.
    pub copy: f64,
    /// Bytes, read and written, of that copy.
    pub copy_bytes: u64,
    /// Flops, f32; a multiply-add counts two.
    pub multiply_add: f64,
    /// Exponentials, f32.
    pub exp2: f64,
    /// Seconds of a dispatch that does nothing among others in a pass; `None` on the `cpu` backend.
    pub dispatch: Option<f64>,
    /// Seconds to submit one such and wait for it; on the `cpu` backend to wake all threads and wait for them.
    pub submit: Spread,
    /// What is subtracted from timings.
    pub overhead: Overhead,
    /// Timings by the device's stamps that were rejected: zero, or an end before the start.
    pub rejected: usize,
    /// Seconds to copy so many bytes, as far as they were asked for.
    copies: HashMap<u64, f64>,
}

/// What holds an operator up at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Moving bytes.
    Copy,
    /// Multiplying and adding.
    MultiplyAdd,
    /// Exponentiating.
    Exp2,
}

impl Bound {
    /// `copy`, `multiply-add` or `exp2`.
    pub const fn name(self) -> &'static str {
        match self {
            Bound::Copy => "copy",
            Bound::MultiplyAdd => "multiply-add",
            Bound::Exp2 => "exp2",
        }
    }
}

impl Ceilings {
    /// Measures them.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn measure(place: &Place<'_>, effort: &Effort<'_>) -> Result<Self, Error> {
        match place {
            Place::Cpu => Self::host(effort),
            Place::Gpu(ctx) => Self::device(ctx, effort),
        }
    }

    fn host(effort: &Effort<'_>) -> Result<Self, Error> {
        let none = Overhead::default();
        let rate = |work: fn(usize) -> f64| {
            let mut each = 0.0;
            let timed = sample_host(&mut |times| each = work(times) / times as f64, effort)?;
            Ok::<_, Error>(each / timed.time.min)
        };
        // Whichever is faster: the products know instructions that the loop does not, the loop has nothing to load.
        let multiply_add = rate(host::multiply_add)?.max(rate(host::products)?);
        let exp2 = rate(host::exponentials)?;
        let submit = sample_host(&mut |times| (0..times).for_each(|_| host::wake()), effort)?.time;
        let copy_bytes = PAST_CACHES;
        let seconds = host_copy(copy_bytes, effort)?.time.min;
        Ok(Self {
            copy: copy_bytes as f64 / seconds,
            copy_bytes,
            multiply_add,
            exp2,
            dispatch: None,
            submit,
            overhead: none,
            rejected: 0,
            copies: HashMap::new(),
        })
    }

    fn device(ctx: &Context, effort: &Effort<'_>) -> Result<Self, Error> {
        let caps = ctx.caps();
        warm(ctx, &schedule(ctx, probes::multiply_add(caps))?, effort)?;
        let nothing = Schedule::new();
        let mut empty = Vec::new();
        let mut rejected = 0;
        for turn in 0..=effort.repeat {
            let lap = readback::time(ctx, &nothing, 1)?;
            if turn > 0 {
                empty.extend(lap.gpu);
            }
        }
        // Drivers that give zeros for a pass with nothing in it say that it costs nothing.
        let pass = Spread::of(empty).map_or(0.0, |spread| spread.median);
        let one = schedule(ctx, probes::empty())?;
        let mut walls = Vec::new();
        for turn in 0..=effort.repeat {
            let lap = readback::time(ctx, &one, 1)?;
            if turn > 0 {
                walls.push(lap.wall);
            }
        }
        let submit = Spread::of(walls).unwrap_or(Spread { min: 0.0, p10: 0.0, median: 0.0, p90: 0.0, count: 0 });
        let overhead = Overhead { pass, submit: submit.min };
        let mut timed = |program: Program| {
            let (cost, schedule) = (program.cost(), schedule(ctx, program)?);
            let timed = sample_on(ctx, &schedule, &overhead, effort)?;
            rejected += timed.rejected;
            Ok::<_, Error>((cost, timed.time.min))
        };
        let (_, dispatch) = timed(probes::empty())?;
        let (cost, seconds) = timed(probes::multiply_add(caps))?;
        let multiply_add = cost.flops / seconds;
        let (cost, seconds) = timed(probes::exp2(caps))?;
        let exp2 = cost.exps / seconds;
        let mut copy_bytes = PAST_CACHES.min(probes::largest_copy(caps));
        let copy = loop {
            match device_copy(ctx, copy_bytes, &overhead, effort) {
                // A small device has no room for so much.
                Err(Error::Device(_)) if copy_bytes > SMALLEST_COPY && ctx.check_lost().is_ok() => copy_bytes /= 2,
                other => break other?,
            }
        };
        rejected += copy.rejected;
        Ok(Self {
            copy: copy_bytes as f64 / copy.time.min,
            copy_bytes,
            multiply_add,
            exp2,
            dispatch: Some(dispatch),
            submit,
            overhead,
            rejected,
            copies: HashMap::new(),
        })
    }

    /// Seconds to copy so many bytes, read and written together: measured at that size, or taken from the largest copy
    /// where one copy cannot be as large.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn copy_time(&mut self, place: &Place<'_>, bytes: u64, effort: &Effort<'_>) -> Result<f64, Error> {
        if bytes >= self.copy_bytes {
            return Ok(bytes as f64 / self.copy);
        }
        if let Some(seconds) = self.copies.get(&bytes) {
            return Ok(*seconds);
        }
        let timed = match place {
            Place::Cpu => host_copy(bytes, effort)?,
            Place::Gpu(ctx) => device_copy(ctx, bytes, &self.overhead, effort)?,
        };
        self.rejected += timed.rejected;
        self.copies.insert(bytes, timed.time.median);
        Ok(timed.time.median)
    }

    /// The least seconds that work of this cost can take, and what holds it up.
    pub fn floor(&self, cost: &Cost) -> (f64, Bound) {
        let each = [
            (cost.bytes() / self.copy, Bound::Copy),
            (cost.flops / self.multiply_add, Bound::MultiplyAdd),
            (cost.exps / self.exp2, Bound::Exp2),
        ];
        each.into_iter().fold((0.0, Bound::Copy), |most, one| if one.0 > most.0 { one } else { most })
    }
}

/// Times what the host does so many times over.
fn sample_host(work: &mut dyn FnMut(usize), effort: &Effort<'_>) -> Result<Timed, Error> {
    let lap = &mut |times| {
        let start = Instant::now();
        work(times);
        Ok(host_lap(start, times))
    };
    sample(lap, RUNS, &Overhead::default(), effort)
}

fn host_copy(bytes: u64, effort: &Effort<'_>) -> Result<Timed, Error> {
    let half = (bytes / 2).max(1) as usize;
    // Written, since pages that never were are all one page.
    let from: Vec<u8> = (0..half).map(|i| i as u8).collect();
    let mut to = vec![1u8; half];
    sample_host(&mut |times| (0..times).for_each(|_| host::copy(&from, std::hint::black_box(&mut to))), effort)
}

fn device_copy(ctx: &Context, bytes: u64, overhead: &Overhead, effort: &Effort<'_>) -> Result<Timed, Error> {
    sample_on(ctx, &schedule(ctx, probes::copy(ctx.caps(), bytes))?, overhead, effort)
}

/// A program of a probe with buffers of its own.
fn schedule(ctx: &Context, program: Program) -> Result<Schedule, Error> {
    let plan = Plan::new(ctx, program)?;
    let mut tensors = Vec::new();
    for slot in plan.slots() {
        let shape = slot.shape();
        tensors.push(match slot.access {
            // Not all zeros, which some devices keep compressed.
            Access::Read => {
                let values = (0..shape.count() as u32).map(|i| i.wrapping_mul(0x9e37_79b9) as f32).collect();
                readback::upload(ctx, slot.name, &HostTensor::f32(shape, values))?
            }
            _ => readback::empty(ctx, slot.name, shape, DType::F32)?,
        });
    }
    let named: Vec<_> = plan.slots().iter().map(|slot| slot.name).zip(&tensors).collect();
    let mut schedule = Schedule::new();
    schedule.push(plan.bind(&named, &Workspace::new())?);
    // The first run compiles, and brings the source over.
    readback::time(ctx, &schedule, 1)?;
    Ok(schedule)
}
