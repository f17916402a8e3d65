//! Measures an operator where it runs: is it right, and what does it cost the first time, the host, and the device.
//!
//! Three classes of time, never mixed. Cold: making the plan with no pipeline there, and what the first run took longer
//! than the others (drivers compile late). Prepared: what the host does to bind a plan and to encode a recording. Kernel:
//! a run, by the device's own stamps around a pass with several runs, less an empty pass; by the host's clock where there
//! are none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::execute::Prepared;
use super::tolerance::{Truth, Verdict};
use super::{Case, Op, Operator, Rows, draw, rows};
use crate::error::Error;
use crate::gpu::{Context, Lap, Schedule, Spread, readback};
use crate::tensor::TensorMap;

/// Where something runs.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The `cpu` backend.
    Cpu,
    /// A device.
    Gpu(&'a Context),
}

/// How much to do for a figure.
#[derive(Debug, Clone, Copy)]
pub struct Effort<'a> {
    /// Timings to take.
    pub repeat: usize,
    /// Seconds after which no further one is taken, once there are [`LEAST`].
    pub seconds: f64,
    /// Once set, no further one is taken.
    pub stop: &'a AtomicBool,
}

impl Effort<'_> {
    /// Whether no further timing is wanted.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Timings of a figure, however long each takes.
pub const LEAST: usize = 3;

/// Seconds of runs in one pass, so that stamps and clocks, which tick in microseconds on some devices, are exact.
const PASS: f64 = 0.03;

/// Runs in one timing at most: encoding them takes time of its own.
pub(super) const RUNS: usize = 1000;

/// Seconds that a timing takes beside what is timed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overhead {
    /// Of a pass with nothing in it, by the device's stamps.
    pub pass: f64,
    /// Of submitting one empty dispatch and waiting for it, by the host's clock.
    pub submit: f64,
}

/// What a time was read off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Timestamps of the device.
    Gpu,
    /// The host's clock.
    Wall,
}

impl Clock {
    /// `gpu` or `wall`.
    pub const fn name(self) -> &'static str {
        match self {
            Clock::Gpu => "gpu",
            Clock::Wall => "wall",
        }
    }
}

/// Seconds of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    /// By `clock`.
    pub time: Spread,
    /// By the host's clock, less an empty submission.
    pub wall: Spread,
    /// What `time` was read off.
    pub clock: Clock,
    /// Runs in each timing, which was divided by it.
    pub runs: usize,
    /// Timings whose stamps were rejected: zero, or an end before the start.
    pub rejected: usize,
}

impl Timed {
    /// How far the host's clock is from the stamps, as a share of the latter's median; only where both were read, and over
    /// timings long enough (20 ms) for their difference to mean something.
    pub fn disagreement(&self) -> Option<f64> {
        let long = self.time.median * self.runs as f64 >= 0.02;
        (self.clock == Clock::Gpu && long).then(|| self.wall.median / self.time.median - 1.0)
    }
}

/// Takes timings until there are enough. `lap` runs something so many times over, `most` at a time, and gives the seconds
/// of one.
pub(super) fn sample(
    lap: &mut dyn FnMut(usize) -> Result<Lap, Error>,
    most: usize,
    overhead: &Overhead,
    effort: &Effort<'_>,
) -> Result<Timed, Error> {
    // Warm up, and find how many runs make a timing.
    let mut runs = 1;
    loop {
        let one = lap(runs)?;
        let seconds = one.gpu.unwrap_or(one.wall) * runs as f64;
        if seconds >= PASS * 0.8 || runs == most || effort.stopped() {
            break;
        }
        // Small steps at first: the first run is slow.
        let wanted = (runs as f64 * PASS / seconds.max(1e-9)).ceil() as usize;
        runs = wanted.clamp(runs + 1, runs * 32).min(most);
    }
    let start = Instant::now();
    let (mut stamps, mut walls) = (Vec::new(), Vec::new());
    let mut rejected = 0;
    for taken in 0..effort.repeat.max(1) {
        let late = start.elapsed().as_secs_f64() > effort.seconds && taken >= LEAST;
        if late || (taken > 0 && effort.stopped()) {
            break;
        }
        let one = lap(runs)?;
        let less = |seconds: f64, overhead: f64| (seconds - overhead * one.passes as f64 / runs as f64).max(0.0);
        walls.push(less(one.wall, overhead.submit));
        stamps.extend(one.gpu.map(|seconds| less(seconds, overhead.pass)));
        rejected += usize::from(one.rejected);
    }
    let wall = Spread::of(walls).ok_or_else(|| Error::Device("nothing was timed".into()))?;
    // All or none: a mixture of clocks would be no distribution of anything.
    let stamps = if rejected == 0 { Spread::of(stamps) } else { None };
    let (time, clock) = stamps.map_or((wall, Clock::Wall), |time| (time, Clock::Gpu));
    Ok(Timed { time, wall, clock, runs, rejected })
}

/// Seconds of work before a GPU is timed: one that idled, as it does while the host works out what is right, runs at a
/// fraction of its clock, and work must last for it to rise. (An H200 idles at 345 of 1980 MHz and took up to two seconds.)
const WARM: f64 = 2.0;
/// Seconds without a faster lap that end it then, and those that end it in any case.
const SETTLED: f64 = 0.5;
const LONGEST: f64 = 4.0;

/// Runs laps until they no longer become faster. `lap` gives the seconds of a run, `now` those since whenever.
fn settle(
    lap: &mut dyn FnMut() -> Result<f64, Error>,
    now: &mut dyn FnMut() -> f64,
    effort: &Effort<'_>,
) -> Result<(), Error> {
    let begun = now();
    let (mut least, mut since) = (f64::INFINITY, begun);
    loop {
        let (seconds, time) = (lap()?, now());
        if seconds < 0.97 * least {
            (least, since) = (seconds, time);
        }
        let settled = time - begun >= WARM && time - since >= SETTLED;
        if settled || time - begun >= LONGEST || effort.stopped() {
            return Ok(());
        }
    }
}

/// Runs in one pass at most: none longer than a watchdog allows.
fn most_runs(ctx: &Context, schedule: &Schedule) -> usize {
    // An exponential takes as long as several multiply-adds.
    let work = schedule.cost().flops + 16.0 * schedule.cost().exps;
    ((ctx.caps().dispatch_flops / work.max(1.0)) as usize).clamp(1, RUNS)
}

/// Keeps a GPU at work until its clock has risen: to be done after whatever left it idle for seconds.
pub(super) fn warm(ctx: &Context, schedule: &Schedule, effort: &Effort<'_>) -> Result<(), Error> {
    if ctx.caps().software {
        return Ok(());
    }
    let (start, most, mut runs) = (Instant::now(), most_runs(ctx, schedule), 1);
    let lap = &mut || {
        let lap = readback::time(ctx, schedule, runs)?;
        let seconds = lap.gpu.unwrap_or(lap.wall);
        runs = ((PASS / seconds.max(1e-9)) as usize).clamp(1, most);
        Ok(seconds)
    };
    settle(lap, &mut || start.elapsed().as_secs_f64(), effort)
}

/// [`sample`] of a schedule on a device.
pub(super) fn sample_on(
    ctx: &Context,
    schedule: &Schedule,
    overhead: &Overhead,
    effort: &Effort<'_>,
) -> Result<Timed, Error> {
    sample(&mut |runs| readback::time(ctx, schedule, runs), most_runs(ctx, schedule), overhead, effort)
}

/// A timing of the host: so many runs since then.
pub(super) fn host_lap(start: Instant, runs: usize) -> Lap {
    Lap { gpu: None, rejected: false, passes: 1, wall: start.elapsed().as_secs_f64() / runs as f64 }
}

/// Seconds of a first use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cold {
    /// To make the plan, pipelines and all.
    pub plan: f64,
    /// What the first run took longer than the median of the later ones.
    pub first_run: f64,
}

/// Seconds of the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostSide {
    /// To bind a plan to tensors, uniforms and bind groups and all.
    pub bind: f64,
    /// To encode and finish the commands of a recording, for each of its dispatches.
    pub encode: f64,
    /// Dispatches of the recording.
    pub dispatches: usize,
}

/// A case with its inputs and what is right of its outputs.
pub struct Subject {
    /// The row.
    pub op: &'static Op,
    /// The case.
    pub case: Case,
    /// Configured for it.
    pub operator: Box<dyn Operator>,
    inputs: TensorMap,
    positions: Vec<usize>,
    heads: usize,
    truth: Truth,
}

/// Rows that are compared at least, where there are so many.
const ROWS: usize = 64;
/// Positions along the length that are compared at least.
const POSITIONS: usize = 16;

impl Subject {
    /// Draws the inputs and computes the definition at 64 rows or more: at the same positions of all heads and batch
    /// entries, 16 or more.
    ///
    /// # Errors
    /// Whatever the operator refuses.
    pub fn new(op: &'static Op, case: Case) -> Result<Self, Error> {
        let operator = case.configure(op)?;
        check_memory(op, &*operator)?;
        let inputs = draw::inputs(op, &case)?;
        let heads = ["B", "H"].iter().filter_map(|letter| case.axis(op, letter)).product::<usize>().max(1);
        let positions = rows::sample(case.axis(op, "N").unwrap_or(1), ROWS.div_ceil(heads).max(POSITIONS));
        let truth = Truth::of(&*operator, &inputs, Rows::At(&positions));
        Ok(Self { op, case, operator, inputs, positions, heads, truth })
    }

    /// How many rows of an output are compared.
    pub fn rows(&self) -> usize {
        self.heads * self.positions.len()
    }

    /// The verdict nearest to its bound, or farthest over it.
    fn judge(&self, outputs: &TensorMap) -> Verdict {
        let picked = rows::pick(self.op.outputs, self.case.layout, outputs, &self.positions);
        let verdicts = self.truth.judge(self.op.name, &picked).into_iter().map(|(_, verdict)| verdict);
        let share = |verdict: &Verdict| if verdict.ok { verdict.error / verdict.bound.max(1e-300) } else { f64::MAX };
        let missing = Verdict { error: f64::INFINITY, bound: 0.0, ok: false };
        verdicts.max_by(|a, b| share(a).total_cmp(&share(b))).unwrap_or(missing)
    }
}

/// Bytes of the host for each element of a tensor: as drawn, packed for a device, and in both precisions of the definition,
/// which reads it by way of f64.
const BYTES_EACH: u64 = 4 + 4 + (8 + 8) + (8 + 4);

/// Refuses what would not fit into the memory there is: running out of it ends the process.
fn check_memory(op: &Op, operator: &dyn Operator) -> Result<(), Error> {
    let elements =
        operator.slots().iter().fold(0u64, |sum, slot| sum.saturating_add(slot.checked_count().unwrap_or(u64::MAX)));
    let needed = elements.saturating_mul(BYTES_EACH);
    match available_memory() {
        Some(limit) if needed > limit => Err(Error::Setting {
            op: op.name,
            setting: "memory".into(),
            expected: format!("a shape that takes up to the {} MB this machine has free", limit / 1_000_000),
            found: format!("one that takes {} MB to draw, run and judge", needed / 1_000_000),
        }),
        _ => Ok(()),
    }
}

/// Bytes that programs may still take; `None` where nothing tells.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What was found out about a case in one place.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Which algorithm ran.
    pub variant: String,
    /// Bytes of workspace on the device.
    pub workspace_bytes: u64,
    /// Whether its outputs are right; without that nothing is timed.
    pub verdict: Verdict,
    /// A first use; `None` on the `cpu` backend, which has nothing to make.
    pub cold: Option<Cold>,
    /// The host's part; `None` on the `cpu` backend, which is all host.
    pub prepared: Option<HostSide>,
    /// A run; `None` where the outputs are wrong.
    pub kernel: Option<Timed>,
}

impl Subject {
    /// Runs, judges, and times what is right.
    ///
    /// # Errors
    /// Limits of the device, and [`Error::Device`] if it is lost.
    pub fn measure(&self, place: &Place<'_>, overhead: &Overhead, effort: &Effort<'_>) -> Result<Measured, Error> {
        match place {
            Place::Cpu => self.on_cpu(effort),
            Place::Gpu(ctx) => self.on_gpu(ctx, overhead, effort),
        }
    }

    fn on_cpu(&self, effort: &Effort<'_>) -> Result<Measured, Error> {
        let verdict = self.judge(&self.operator.cpu(&self.inputs)?);
        let lap = &mut |runs| {
            let start = Instant::now();
            for _ in 0..runs {
                std::hint::black_box(self.operator.cpu(&self.inputs)?);
            }
            Ok(host_lap(start, runs))
        };
        let kernel = verdict.ok.then(|| sample(lap, RUNS, &Overhead::default(), effort)).transpose()?;
        let variant = self.operator.cpu_variant();
        Ok(Measured { variant, workspace_bytes: 0, verdict, cold: None, prepared: None, kernel })
    }

    fn on_gpu(&self, ctx: &Context, overhead: &Overhead, effort: &Effort<'_>) -> Result<Measured, Error> {
        ctx.kernels().clear();
        let start = Instant::now();
        let plan = super::plan(ctx, &*self.operator)?;
        let plan_seconds = start.elapsed().as_secs_f64();
        let prepared = Prepared::of(ctx, plan, &self.inputs, true)?;
        // What was written to buffers so far goes out with the next submission, which is not to be timed.
        readback::flush(ctx)?;
        let first = prepared.run(ctx, &mut |_| {})?.as_secs_f64();
        let verdict = self.judge(&prepared.outputs(ctx)?);
        let mut measured = Measured {
            variant: prepared.plan().program().variant().to_owned(),
            workspace_bytes: prepared.workspace_bytes(),
            verdict,
            cold: None,
            prepared: None,
            kernel: None,
        };
        if verdict.ok {
            // While the host judged, and before it while it worked out what is right, the device idled.
            warm(ctx, prepared.schedule(), effort)?;
            let kernel = sample_on(ctx, prepared.schedule(), overhead, effort)?;
            measured.cold = Some(Cold { plan: plan_seconds, first_run: (first - kernel.wall.median).max(0.0) });
            measured.prepared = Some(host_side(ctx, &prepared, effort)?);
            measured.kernel = Some(kernel);
        }
        Ok(measured)
    }
}

/// Times of the host at most: each bind makes a buffer, and they are steady.
const BINDS: usize = 50;

fn host_side(ctx: &Context, prepared: &Prepared, effort: &Effort<'_>) -> Result<HostSide, Error> {
    let begun = Instant::now();
    let (mut binds, mut encodes) = (Vec::new(), Vec::new());
    let dispatches = prepared.schedule().recordings().iter().map(|recording| recording.len()).sum::<usize>();
    for turn in 0..=effort.repeat.clamp(LEAST, BINDS) {
        if turn > LEAST && (effort.stopped() || begun.elapsed().as_secs_f64() > effort.seconds) {
            break;
        }
        let start = Instant::now();
        let recording = prepared.bind()?;
        let bound = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut encoder =
            ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("encode") });
        recording.encode(&mut encoder);
        drop(encoder.finish());
        let encoded = start.elapsed().as_secs_f64();
        if turn > 0 {
            binds.push(bound);
            encodes.push(encoded / dispatches.max(1) as f64);
        }
    }
    // Their uniforms wait for a submission.
    readback::flush(ctx)?;
    let median = |times| Spread::of(times).map_or(0.0, |spread| spread.median);
    Ok(HostSide { bind: median(binds), encode: median(encodes), dispatches })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Caps, Program};
    use crate::ops::{Definition, Precision, linear};
    use crate::tensor::{HostTensor, Slot};

    static STOP: AtomicBool = AtomicBool::new(false);
    const EFFORT: Effort<'_> = Effort { repeat: 4, seconds: 0.05, stop: &STOP };

    /// An operator whose last output row is off by a thousandth.
    struct Wrong(Box<dyn Operator>);

    impl Operator for Wrong {
        fn slots(&self) -> Vec<Slot> {
            self.0.slots()
        }
        fn program(&self, caps: &Caps) -> Result<Program, Error> {
            self.0.program(caps)
        }
        fn cpu(&self, tensors: &TensorMap) -> Result<TensorMap, Error> {
            let mut outputs = self.0.cpu(tensors)?;
            let o = outputs.remove("o").unwrap();
            let mut values = o.to_f32();
            let last = values.len() - 1;
            values[last] *= 1.001;
            outputs.insert("o", HostTensor::f32(o.shape().clone(), values));
            Ok(outputs)
        }
        fn cpu_variant(&self) -> String {
            self.0.cpu_variant()
        }
        fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> Definition {
            self.0.reference(tensors, precision, rows)
        }
        fn cost(&self) -> super::super::Cost {
            self.0.cost()
        }
    }

    #[test]
    fn what_is_wrong_is_not_timed() {
        let case = Case::new("bench", &[("H", 2), ("N", 300), ("D", 8)]);
        let mut subject = Subject::new(&linear::OP, case).unwrap();
        assert!(subject.rows() >= ROWS);
        let right = subject.measure(&Place::Cpu, &Overhead::default(), &EFFORT).unwrap();
        assert!(right.verdict.ok && right.kernel.is_some(), "{right:?}");
        subject.operator = Box::new(Wrong(subject.operator));
        let wrong = subject.measure(&Place::Cpu, &Overhead::default(), &EFFORT).unwrap();
        assert!(!wrong.verdict.ok && wrong.kernel.is_none(), "{wrong:?}");
    }

    fn laps(list: &[(Option<f64>, bool, f64)]) -> impl FnMut(usize) -> Result<Lap, Error> + '_ {
        let mut next = list.iter().cycle();
        move |_| {
            let &(gpu, rejected, wall) = next.next().unwrap();
            Ok(Lap { gpu, rejected, passes: 1, wall })
        }
    }

    #[test]
    fn stamps_count_where_all_are_there_and_the_overhead_goes_off() {
        let overhead = Overhead { pass: 0.5, submit: 1.0 };
        let timed = sample(&mut laps(&[(Some(2.5), false, 4.0)]), RUNS, &overhead, &EFFORT).unwrap();
        assert_eq!((timed.clock, timed.time.median, timed.wall.median, timed.runs), (Clock::Gpu, 2.0, 3.0, 1));
        assert_eq!(timed.disagreement(), Some(0.5));
        let timed = sample(&mut laps(&[(Some(2.5), false, 4.0), (None, true, 4.0)]), RUNS, &overhead, &EFFORT).unwrap();
        assert_eq!((timed.clock, timed.time.median, timed.rejected), (Clock::Wall, 3.0, 2));
        assert_eq!(timed.disagreement(), None);
        let timed = sample(&mut laps(&[(None, false, 4.0)]), RUNS, &overhead, &EFFORT).unwrap();
        assert_eq!((timed.clock, timed.rejected), (Clock::Wall, 0), "no timestamps at all is not a rejection");
    }

    #[test]
    fn short_runs_are_timed_several_at_once_up_to_the_most_allowed() {
        let none = Overhead::default();
        let runs = |seconds, most| sample(&mut laps(&[(None, false, seconds)]), most, &none, &EFFORT).unwrap().runs;
        assert_eq!(runs(1.0, RUNS), 1);
        assert!((24..=31).contains(&runs(0.001, RUNS)), "{}", runs(0.001, RUNS));
        assert_eq!(runs(1e-6, RUNS), RUNS);
        assert_eq!(runs(0.001, 7), 7);
        assert_eq!(runs(0.001, 1), 1);
    }

    #[test]
    fn a_clock_that_still_rises_is_waited_for_but_not_for_ever() {
        // Laps of 0.1 s, each told how long it takes: seconds until it is settled.
        let until = |seconds: &dyn Fn(usize) -> f64| {
            let laps = std::cell::Cell::new(0);
            let lap = &mut || {
                laps.set(laps.get() + 1);
                Ok(seconds(laps.get()))
            };
            settle(lap, &mut || 0.1 * laps.get() as f64, &EFFORT).unwrap();
            laps.get()
        };
        assert_eq!(until(&|_| 1.0), 20, "as fast as ever");
        assert_eq!(until(&|lap| if lap < 25 { 5.7 } else { 1.0 }), 20, "nothing says that it will be faster");
        assert_eq!(until(&|lap| if lap < 18 { 5.7 } else { 1.0 }), 23);
        assert_eq!(until(&|lap| 0.9f64.powi(lap as i32)), 40, "faster without end");
    }

    #[test]
    fn a_stop_ends_the_timings_but_not_before_the_first() {
        let stop = AtomicBool::new(true);
        let effort = Effort { stop: &stop, ..EFFORT };
        let timed = sample(&mut laps(&[(None, false, 0.5)]), RUNS, &Overhead::default(), &effort).unwrap();
        assert_eq!(timed.time.count, 1);
    }
}
