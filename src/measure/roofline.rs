//! Measures the roofline of a device. Operator times are compared with it.
//!
//! Copy bandwidth counts bytes read plus bytes written. The floor of an operator is the largest of three times: its
//! essential bytes at copy bandwidth, its essential flops at the multiply-add rate, and its exponentials at the exp2
//! rate. A kernel with the same instructions can be faster only if its tensors fit in a cache that the copy exceeded.

use std::collections::HashMap;
use std::time::Instant;

use crate::error::Error;
use crate::gpu::program::Cost;
use crate::gpu::{Context, Plan, Program, Schedule, Spread, Workspace, readback};
use crate::measure::cpu_probes as host;
use crate::measure::probes;
use crate::measure::{Budget, Overhead, Place, RUNS, Timed, host_lap, sample, sample_on, warm};
use crate::tensor::DType;
use crate::tensor::{Access, HostTensor};

/// Size of the copy in bytes, read and written together. It exceeds all caches except those of the largest servers.
const PAST_CACHES: u64 = 512 << 20;
/// Smallest copy in bytes, for a device with little memory.
const SMALLEST_COPY: u64 = 32 << 20;

/// Measured limits of a device. Rates are per second. Each is the best of several timings, because only other work can
/// make a probe slower.
#[derive(Debug, Clone)]
pub struct Roofline {
    /// Bytes read plus bytes written.
    pub copy: f64,
    /// Bytes of that copy, read and written together.
    pub copy_bytes: u64,
    /// Flops, f32; a multiply-add counts two.
    pub multiply_add: f64,
    /// Exponentials, f32.
    pub exp2: f64,
    /// Seconds of an empty dispatch among others in a pass; `None` on the `cpu` backend.
    pub dispatch: Option<f64>,
    /// Seconds to submit an empty dispatch and wait for it; on the `cpu` backend, to wake all threads and wait for
    /// them.
    pub submit: Spread,
    /// Overhead that is subtracted from timings.
    pub overhead: Overhead,
    /// Number of timings whose timestamps were rejected because they were zero or ran backwards.
    pub rejected: usize,
    /// Seconds of a copy by size in bytes, for the sizes requested so far.
    copies: HashMap<u64, f64>,
}

/// The resource that limits an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Copy bandwidth.
    Copy,
    /// Multiply-add rate.
    MultiplyAdd,
    /// Exp2 rate.
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

impl Roofline {
    /// Measures all limits.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn measure(place: &Place<'_>, effort: &Budget<'_>) -> Result<Self, Error> {
        match place {
            Place::Cpu => Self::host(effort),
            Place::Gpu(ctx) => Self::device(ctx, effort),
        }
    }

    fn host(effort: &Budget<'_>) -> Result<Self, Error> {
        let none = Overhead::default();
        let rate = |work: fn(usize) -> f64| {
            let mut each = 0.0;
            let timed = sample_host(&mut |times| each = work(times) / times as f64, effort)?;
            Ok::<_, Error>(each / timed.time.min)
        };
        // Use the faster one: the matrix products use wider instructions, the loop has no loads.
        let multiply_add = rate(host::multiply_add)?.max(rate(host::products)?);
        let exp2 = rate(host::exponentials)?;
        let submit = sample_host(&mut |times| (0..times).for_each(|_| host::wake()), effort)?.time;
        let (copy_bytes, copy) = largest_copy(&Place::Cpu, &none, effort)?;
        Ok(Self {
            copy: copy_bytes as f64 / copy.time.min,
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

    fn device(ctx: &Context, effort: &Budget<'_>) -> Result<Self, Error> {
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
        // Some drivers return zeros for an empty pass. Its cost then counts as zero.
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
        let (copy_bytes, copy) = largest_copy(&Place::Gpu(ctx), &overhead, effort)?;
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

    /// Bytes per second, read and written together, of a copy that no cache holds.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn copy_rate(place: &Place<'_>, effort: &Budget<'_>) -> Result<f64, Error> {
        let (bytes, timed) = largest_copy(place, &Overhead::default(), effort)?;
        Ok(bytes as f64 / timed.time.min)
    }

    /// Seconds to copy this many bytes, read and written together: measured at that size, or scaled from the largest
    /// copy if the size exceeds it.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn copy_time(&mut self, place: &Place<'_>, bytes: u64, effort: &Budget<'_>) -> Result<f64, Error> {
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

    /// The least time in seconds for work of this cost, and the resource that limits it.
    pub fn floor(&self, cost: &Cost) -> (f64, Bound) {
        let each = [
            (cost.bytes() / self.copy, Bound::Copy),
            (cost.flops / self.multiply_add, Bound::MultiplyAdd),
            (cost.exps / self.exp2, Bound::Exp2),
        ];
        each.into_iter().fold((0.0, Bound::Copy), |most, one| if one.0 > most.0 { one } else { most })
    }
}

/// Times a copy that no cache holds, or the largest that a small device has room for. Returns its bytes, read and written together.
fn largest_copy(place: &Place<'_>, overhead: &Overhead, effort: &Budget<'_>) -> Result<(u64, Timed), Error> {
    let Place::Gpu(ctx) = place else { return Ok((PAST_CACHES, host_copy(PAST_CACHES, effort)?)) };
    let mut bytes = PAST_CACHES.min(probes::largest_copy(ctx.caps()));
    loop {
        match device_copy(ctx, bytes, overhead, effort) {
            // The device may be too small for this copy: try half the size.
            Err(Error::Device(_)) if bytes > SMALLEST_COPY && ctx.check_lost().is_ok() => bytes /= 2,
            other => return Ok((bytes, other?)),
        }
    }
}

/// Times work of the host. `work` repeats it the given number of times.
fn sample_host(work: &mut dyn FnMut(usize), effort: &Budget<'_>) -> Result<Timed, Error> {
    let lap = &mut |times| {
        let start = Instant::now();
        work(times);
        Ok(host_lap(start, times))
    };
    sample(lap, RUNS, &Overhead::default(), effort)
}

fn host_copy(bytes: u64, effort: &Budget<'_>) -> Result<Timed, Error> {
    let half = (bytes / 2).max(1) as usize;
    // Fill the source: pages that were never written are all the same physical page.
    let from: Vec<u8> = (0..half).map(|i| i as u8).collect();
    let mut to = vec![1u8; half];
    sample_host(&mut |times| (0..times).for_each(|_| host::copy(&from, std::hint::black_box(&mut to))), effort)
}

fn device_copy(ctx: &Context, bytes: u64, overhead: &Overhead, effort: &Budget<'_>) -> Result<Timed, Error> {
    sample_on(ctx, &schedule(ctx, probes::copy(ctx.caps(), bytes))?, overhead, effort)
}

/// Schedules a probe program with new buffers.
fn schedule(ctx: &Context, program: Program) -> Result<Schedule, Error> {
    let plan = Plan::new(ctx, program)?;
    let mut tensors = Vec::new();
    for slot in plan.slots() {
        let shape = slot.shape();
        tensors.push(match slot.access {
            // The source is not all zeros, because some devices compress zeros.
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
    // The first run compiles the kernel and uploads the source.
    readback::time(ctx, &schedule, 1)?;
    Ok(schedule)
}
