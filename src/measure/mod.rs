//! Measures an operator on one device: whether its output is correct, and the times of a first use, of the host and of
//! the device.
//!
//! Three kinds of time are kept apart. Cold: creating the plan without cached pipelines, and how much longer the first
//! run takes than later ones (drivers compile late). Prepared: the host's work to bind a plan and to encode a
//! recording. Kernel: one run, by GPU timestamps around a pass with several runs, minus an empty pass; by the host's
//! clock if there are no timestamps.

pub(crate) mod cpu_probes;
pub mod probes;
pub mod roofline;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::catalog::case::Case;
use crate::catalog::random;
use crate::catalog::spec::Op;
use crate::cpu::memory;
use crate::error::Error;
use crate::gpu::{Context, Lap, Schedule, Spread, readback};
use crate::operator::{Operator, Rows};
use crate::tensor::TensorMap;
use crate::verify::rows;
use crate::verify::run::Prepared;
use crate::verify::tolerance::{Comparison, Reference};

/// Where an operator runs.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// The `cpu` backend.
    Cpu,
    /// A device.
    Gpu(&'a Context),
}

/// How long to measure.
#[derive(Debug, Clone, Copy)]
pub struct Budget<'a> {
    /// Number of timings.
    pub repeat: usize,
    /// Seconds after which no further timing starts, once there are at least [`LEAST`].
    pub seconds: f64,
    /// Once set, no further timing starts.
    pub stop: &'a AtomicBool,
}

impl Budget<'_> {
    /// Whether measuring was stopped.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Minimum number of timings, however long each takes.
pub const LEAST: usize = 3;

/// Target length of a pass in seconds. Several short runs share a pass, because some clocks have a resolution of a
/// microsecond.
const PASS: f64 = 0.03;

/// Largest number of runs per timing, because encoding them takes time too.
pub(super) const RUNS: usize = 1000;

/// Overhead of a timing, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overhead {
    /// An empty pass, by GPU timestamps.
    pub pass: f64,
    /// Submitting an empty dispatch and waiting for it, by the host's clock.
    pub submit: f64,
}

/// The clock of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// GPU timestamps.
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

/// Measured time of one run, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    /// Time by `clock`.
    pub time: Spread,
    /// Time by the host's clock, minus an empty submission.
    pub wall: Spread,
    /// The clock of `time`.
    pub clock: Clock,
    /// Number of runs per timing. Times are divided by it.
    pub runs: usize,
    /// Number of timings whose timestamps were rejected because they were zero or ran backwards.
    pub rejected: usize,
}

impl Timed {
    /// Relative difference between the host's clock and the timestamps; `None` unless both were read and a timing takes
    /// at least 20 ms, so that the difference is meaningful.
    pub fn disagreement(&self) -> Option<f64> {
        let long = self.time.median * self.runs as f64 >= 0.02;
        (self.clock == Clock::Gpu && long).then(|| self.wall.median / self.time.median - 1.0)
    }
}

/// Takes timings within the budget. `lap` runs the work a given number of times, at most `most`, and returns the
/// seconds of one run.
pub(super) fn sample(
    lap: &mut dyn FnMut(usize) -> Result<Lap, Error>,
    most: usize,
    overhead: &Overhead,
    effort: &Budget<'_>,
) -> Result<Timed, Error> {
    // Warm up, and find how many runs fill a timing.
    let mut runs = 1;
    loop {
        let one = lap(runs)?;
        let seconds = one.gpu.unwrap_or(one.wall) * runs as f64;
        if seconds >= PASS * 0.8 || runs == most || effort.stopped() {
            break;
        }
        // The first run is slow, so the number of runs grows by a limited factor.
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
    // Use timestamps for all timings or for none: a distribution must come from one clock.
    let stamps = if rejected == 0 { Spread::of(stamps) } else { None };
    let (time, clock) = stamps.map_or((wall, Clock::Wall), |time| (time, Clock::Gpu));
    Ok(Timed { time, wall, clock, runs, rejected })
}

/// Seconds of work before a GPU is timed. The GPU idles at a fraction of its clock while the host computes the
/// reference, and the clock rises only under lasting work. (An H200 idles at 345 of 1980 MHz and took up to two
/// seconds.)
const WARM: f64 = 2.0;
/// After [`WARM`], the warm-up ends when no lap was faster for `SETTLED` seconds; it always ends after `LONGEST`
/// seconds.
const SETTLED: f64 = 0.5;
const LONGEST: f64 = 4.0;

/// Runs laps until they no longer become faster. `lap` returns the seconds of a run, `now` the seconds since a fixed
/// time.
fn settle(
    lap: &mut dyn FnMut() -> Result<f64, Error>,
    now: &mut dyn FnMut() -> f64,
    effort: &Budget<'_>,
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

/// Largest number of runs in one pass, so that a pass stays below the watchdog.
fn most_runs(ctx: &Context, schedule: &Schedule) -> usize {
    // An exponential takes as long as several multiply-adds.
    let work = schedule.cost().flops + 16.0 * schedule.cost().exps;
    ((ctx.caps().dispatch_flops / work.max(1.0)) as usize).clamp(1, RUNS)
}

/// Keeps a GPU busy until its clock has risen. Call it after the GPU has idled for seconds.
pub(super) fn warm(ctx: &Context, schedule: &Schedule, effort: &Budget<'_>) -> Result<(), Error> {
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
    effort: &Budget<'_>,
) -> Result<Timed, Error> {
    sample(&mut |runs| readback::time(ctx, schedule, runs), most_runs(ctx, schedule), overhead, effort)
}

/// A timing by the host's clock: `runs` runs since `start`.
pub(super) fn host_lap(start: Instant, runs: usize) -> Lap {
    Lap { gpu: None, rejected: false, passes: 1, wall: start.elapsed().as_secs_f64() / runs as f64 }
}

/// Times of a first use, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cold {
    /// Creating the plan and its pipelines.
    pub plan: f64,
    /// How much longer the first run took than the median of later ones.
    pub first_run: f64,
}

/// Times of the host, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostSide {
    /// Binding a plan to tensors, including uniforms and bind groups.
    pub bind: f64,
    /// Encoding and finishing the commands of a recording, per dispatch.
    pub encode: f64,
    /// Number of dispatches of the recording.
    pub dispatches: usize,
}

/// A case with its inputs and its reference outputs.
#[derive(Debug)]
pub struct Subject {
    /// The row.
    pub op: &'static Op,
    /// The case.
    pub case: Case,
    /// The operator configured for the case.
    pub operator: Box<dyn Operator>,
    inputs: TensorMap,
    positions: Vec<usize>,
    heads: usize,
    truth: Reference,
}

/// Minimum number of rows to compare, if there are as many.
const ROWS: usize = 64;
/// Minimum number of positions along the length to compare.
const POSITIONS: usize = 16;

impl Subject {
    /// Draws the inputs and computes the reference at 64 rows or more: at 16 or more positions, the same for all heads
    /// and batch entries.
    ///
    /// # Errors
    /// Whatever the operator refuses.
    pub fn new(op: &'static Op, case: Case) -> Result<Self, Error> {
        let operator = case.configure(op)?;
        check_memory(op, &*operator)?;
        let inputs = random::inputs(op, &case)?;
        let heads = ["B", "H"].iter().filter_map(|letter| case.axis(op, letter)).product::<usize>().max(1);
        let positions = rows::sample(case.axis(op, "N").unwrap_or(1), ROWS.div_ceil(heads).max(POSITIONS));
        let truth = Reference::of(&*operator, &inputs, Rows::At(&positions));
        Ok(Self { op, case, operator, inputs, positions, heads, truth })
    }

    /// Number of rows of an output that are compared.
    pub fn rows(&self) -> usize {
        self.heads * self.positions.len()
    }

    /// The worst result: the one closest to its tolerance, or furthest above it.
    fn compare(&self, outputs: &TensorMap) -> Comparison {
        let picked = rows::pick(self.op.outputs, self.case.layout, outputs, &self.positions);
        let (operator, rows) = (&*self.operator, Rows::At(&self.positions));
        let verdicts =
            self.truth.compare(operator, &self.inputs, rows, &picked).into_iter().map(|(_, verdict)| verdict);
        let share =
            |verdict: &Comparison| if verdict.ok { verdict.error / verdict.bound.max(1e-300) } else { f64::MAX };
        verdicts.max_by(|a, b| share(a).total_cmp(&share(b))).unwrap_or(Comparison::MISSING)
    }
}

/// Host bytes per element of a tensor: as drawn, packed for a device, and in both precisions of the reference, which
/// reads it through f64.
const BYTES_EACH: u64 = 4 + 4 + (8 + 8) + (8 + 4);

/// Refuses a case that needs more memory than is free.
fn check_memory(op: &Op, operator: &dyn Operator) -> Result<(), Error> {
    let elements = operator.elements().saturating_add(operator.state_elements());
    let needed = elements.saturating_mul(BYTES_EACH);
    memory::check_bytes(op.name, "drawing, running and judging this shape", needed)
}

/// The results of measuring a case on one device.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The algorithm that ran.
    pub variant: String,
    /// Bytes of workspace on the device.
    pub workspace_bytes: u64,
    /// Whether its outputs are correct. Wrong outputs are not timed.
    pub verdict: Comparison,
    /// Times of a first use; `None` on the `cpu` backend, which creates no pipelines.
    pub cold: Option<Cold>,
    /// Times of the host; `None` on the `cpu` backend, which runs entirely on the host.
    pub prepared: Option<HostSide>,
    /// Time of a run; `None` if the outputs are wrong.
    pub kernel: Option<Timed>,
}

impl Subject {
    /// Runs the case, compares its outputs, and times it if they are correct.
    ///
    /// # Errors
    /// Limits of the device, and [`Error::Device`] if it is lost.
    pub fn measure(&self, place: &Place<'_>, overhead: &Overhead, effort: &Budget<'_>) -> Result<Measured, Error> {
        match place {
            Place::Cpu => self.on_cpu(effort),
            Place::Gpu(ctx) => self.on_gpu(ctx, overhead, effort),
        }
    }

    fn on_cpu(&self, effort: &Budget<'_>) -> Result<Measured, Error> {
        let verdict = self.compare(&self.operator.cpu(&self.inputs)?);
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

    fn on_gpu(&self, ctx: &Context, overhead: &Overhead, effort: &Budget<'_>) -> Result<Measured, Error> {
        ctx.kernels().clear();
        let start = Instant::now();
        let plan = crate::operator::compile(ctx, &*self.operator)?;
        let plan_seconds = start.elapsed().as_secs_f64();
        let prepared = Prepared::of(ctx, plan, &self.inputs, true)?;
        // Pending buffer writes go out with the next submission. Flush them so that they are not timed.
        readback::flush(ctx)?;
        let first = prepared.run(ctx, &mut |_| {})?.as_secs_f64();
        let verdict = self.compare(&prepared.outputs(ctx)?);
        let mut measured = Measured {
            variant: prepared.plan().program().variant().to_owned(),
            workspace_bytes: prepared.workspace_bytes(),
            verdict,
            cold: None,
            prepared: None,
            kernel: None,
        };
        if verdict.ok {
            // The device idled while the host computed and compared the reference.
            warm(ctx, prepared.schedule(), effort)?;
            let kernel = sample_on(ctx, prepared.schedule(), overhead, effort)?;
            measured.cold = Some(Cold { plan: plan_seconds, first_run: (first - kernel.wall.median).max(0.0) });
            measured.prepared = Some(host_side(ctx, &prepared, effort)?);
            measured.kernel = Some(kernel);
        }
        Ok(measured)
    }
}

/// Largest number of host timings. Each bind creates a buffer, and the times vary little.
const BINDS: usize = 50;

fn host_side(ctx: &Context, prepared: &Prepared, effort: &Budget<'_>) -> Result<HostSide, Error> {
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
    // The uniforms of these recordings are pending until a submission.
    readback::flush(ctx)?;
    let median = |times| Spread::of(times).map_or(0.0, |spread| spread.median);
    Ok(HostSide { bind: median(binds), encode: median(encodes), dispatches })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Caps, Cost, Program};
    use crate::operator::{Precision, ReferenceOutputs};
    use crate::ops::linear;
    use crate::tensor::{HostTensor, Slot};

    static STOP: AtomicBool = AtomicBool::new(false);
    const EFFORT: Budget<'_> = Budget { repeat: 4, seconds: 0.05, stop: &STOP };

    /// An operator whose last output row is off by a thousandth.
    #[derive(Debug)]
    struct Wrong(Box<dyn Operator>);

    impl Operator for Wrong {
        fn name(&self) -> &'static str {
            self.0.name()
        }
        fn validate(&self) -> Result<(), Error> {
            self.0.validate()
        }
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
        fn reference(&self, tensors: &TensorMap, precision: Precision, rows: Rows<'_>) -> ReferenceOutputs {
            self.0.reference(tensors, precision, rows)
        }
        fn cost(&self) -> Cost {
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
        // Each lap advances the clock by 0.1 s and returns the given time. Returns the laps until it has settled.
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
        let effort = Budget { stop: &stop, ..EFFORT };
        let timed = sample(&mut laps(&[(None, false, 0.5)]), RUNS, &Overhead::default(), &effort).unwrap();
        assert_eq!(timed.time.count, 1);
    }
}
