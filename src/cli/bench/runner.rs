//! Measures jobs on targets, one after another. A device that is lost, or a shape that takes too long, costs only its row.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::super::report;
use super::super::target::Target;
use super::matrix::{Job, Matrix};
use super::record::{Outcome, Ran, Row, Site};
use crate::cpu::watch::Watch;
use crate::error::Error;
use crate::measure::roofline::Roofline;
use crate::measure::{Budget, Subject};
use crate::tensor::DType;

/// Timings and seconds for the ceilings, which all rows are compared with: long enough that a burst of other work does not
/// hide them.
const CEILINGS: (usize, f64) = (40, 2.0);
/// Timings and seconds for copying the bytes of a row.
const COPIES: (usize, f64) = (10, 1.0);

/// A shape is given up after so many times `--max-seconds`, and gets no further sample after half of that.
const GIVE_UP: f64 = 10.0;
/// Seconds after which a shape is given up at the earliest: making pipelines alone can take some.
const LEAST_SECONDS: f64 = 20.0;

/// Seconds after which a shape that is still running is given up.
pub(super) fn patience(max_seconds: f64) -> f64 {
    (GIVE_UP * max_seconds).max(LEAST_SECONDS)
}

/// What happens, as it happens.
pub(super) enum Event<'a> {
    /// The ceilings of a target are about to be measured.
    Roofline(&'a Target),
    /// A job is about to be measured on a target, after so many others.
    Begin { job: &'a Job, target: &'a Target, done: usize, of: usize },
    /// Work goes on; sent ten times a second. `sites` are the results so far.
    Waiting { sites: &'a [Site] },
    /// The last row of that site is new.
    Row { sites: &'a [Site], at: usize },
}

/// A job and the targets that run it. They share its inputs and its reference.
struct Task {
    job: Job,
    places: Vec<usize>,
}

/// Measures everything, or until `effort` says to stop. A device error is the outcome of its row, and the next row gets a
/// new device.
///
/// # Errors
/// Too many jobs, and any error that `watch` returns.
pub(super) fn run(
    targets: &mut [Target],
    matrix: &Matrix,
    effort: &Budget<'_>,
    watch: &mut dyn FnMut(Event<'_>) -> Result<(), Error>,
) -> Result<Vec<Site>, Error> {
    run_within(patience(effort.seconds), targets, matrix, effort, watch)
}

/// [`run`], giving a shape up after so many seconds.
fn run_within(
    patience: f64,
    targets: &mut [Target],
    matrix: &Matrix,
    effort: &Budget<'_>,
    watch: &mut dyn FnMut(Event<'_>) -> Result<(), Error>,
) -> Result<Vec<Site>, Error> {
    let tasks = tasks(targets, matrix)?;
    let total = tasks.iter().map(|task| task.places.len()).sum();
    let mut sites: Vec<_> = targets.iter().map(site).collect();
    // Never more than what was asked for.
    let least = |(repeat, seconds): (usize, f64)| {
        let (repeat, seconds) = (repeat.min(2 * effort.repeat), seconds.min(effort.seconds));
        Budget { repeat, seconds, ..*effort }
    };
    let (ceiling_effort, copy_effort) = (least(CEILINGS), least(COPIES));
    // Whether the device of a target has failed. It is replaced before the next row.
    let mut broken = vec![false; targets.len()];
    for at in 0..targets.len() {
        watch(Event::Roofline(&targets[at]))?;
        let (target, mut ceilings) = (&mut targets[at], None);
        let measured = watched(&sites, watch, &mut |_| {}, || {
            guarded(|| ready(target, &mut ceilings, false, &ceiling_effort).map(drop))
        })?;
        broken[at] = measured.is_err();
        sites[at].ceilings = ceilings;
    }
    let mut done = 0;
    for Task { job, places } in tasks {
        if effort.stopped() {
            break;
        }
        let subject = watched(&sites, watch, &mut |_| {}, || guarded(|| Subject::new(job.op, job.case.clone())))?;
        for at in places {
            if effort.stopped() {
                break;
            }
            watch(Event::Begin { job: &job, target: &targets[at], done, of: total })?;
            let outcome = match &subject {
                Err(error) => Outcome::Refused(error.to_string()),
                Ok(subject) => {
                    let (target, mut ceilings) = (&mut targets[at], sites[at].ceilings.clone());
                    let (stop, run, is_broken) = (AtomicBool::new(false), Arc::new(Watch::default()), broken[at]);
                    let row_effort = Budget { stop: &stop, ..*effort };
                    let copy_effort = Budget { stop: &stop, ..copy_effort };
                    // Timings end first, with the samples there are. A run of the cpu backend then ends in its middle; one
                    // on a GPU cannot.
                    let mut limit = |seconds: f64| {
                        stop.fetch_or(effort.stopped() || seconds > patience / 2.0, Ordering::Relaxed);
                        if seconds > patience {
                            run.stop();
                        }
                    };
                    let ran = watched(&sites, watch, &mut limit, || {
                        let measure = || {
                            let ceilings = ready(target, &mut ceilings, is_broken, &ceiling_effort)?;
                            measure(subject, target, ceilings, &row_effort, &copy_effort)
                        };
                        guarded(|| run.run(measure).transpose())
                    })?;
                    sites[at].ceilings = ceilings;
                    match ran {
                        Ok(Some(ran)) => Outcome::Ran(Box::new(ran)),
                        Err(error) => told(&error),
                        Ok(None) => {
                            Outcome::Refused(format!("given up after {patience:.0} s, since a run takes longer"))
                        }
                    }
                }
            };
            broken[at] = matches!(outcome, Outcome::Failed(_));
            sites[at].rows.push(Row { job: job.clone(), outcome });
            done += 1;
            watch(Event::Row { sites: &sites, at })?;
        }
    }
    Ok(sites)
}

/// Runs `work` on a thread of its own, and meanwhile tells `watch` that it goes on and `limit` for how many seconds.
///
/// # Errors
/// The first error that `watch` returns, once the work has ended.
fn watched<T: Send>(
    sites: &[Site],
    watch: &mut dyn FnMut(Event<'_>) -> Result<(), Error>,
    limit: &mut dyn FnMut(f64),
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let (started, mut told) = (Instant::now(), Ok(()));
    let value = report::wait(work, &mut || {
        limit(started.elapsed().as_secs_f64());
        if told.is_ok() {
            told = watch(Event::Waiting { sites });
        }
    });
    told.map(|()| value)
}

/// Replaces the device of a target if it is broken, and measures the ceilings if they are missing.
fn ready<'a>(
    target: &mut Target,
    ceilings: &'a mut Option<Roofline>,
    broken: bool,
    effort: &Budget<'_>,
) -> Result<&'a mut Roofline, Error> {
    if broken {
        target.reopen()?;
    }
    match ceilings {
        Some(ceilings) => Ok(ceilings),
        none => Ok(none.insert(Roofline::measure(&target.place(), effort)?)),
    }
}

fn tasks(targets: &[Target], matrix: &Matrix) -> Result<Vec<Task>, Error> {
    let mut tasks: Vec<Task> = Vec::new();
    let mut known = HashMap::new();
    for (at, target) in targets.iter().enumerate() {
        for job in matrix.jobs(&target.place())? {
            let key = (job.name(), job.shape.clone(), job.case.dtype.name());
            let task = *known.entry(key).or_insert(tasks.len());
            match tasks.get_mut(task) {
                Some(task) => task.places.push(at),
                None => tasks.push(Task { job, places: vec![at] }),
            }
        }
    }
    tasks.sort_by_key(|task| task.job.length());
    Ok(tasks)
}

fn site(target: &Target) -> Site {
    let threads = || match target.threads() {
        Some(1) => "1 thread".into(),
        threads => format!("{} threads", threads.unwrap_or(0)),
    };
    Site {
        adapter: target.adapter().unwrap_or("cpu").to_owned(),
        backend: target.backend(),
        driver: target.driver().unwrap_or_else(threads),
        software: target.software(),
        ceilings: None,
        rows: Vec::new(),
    }
}

fn measure(
    subject: &Subject,
    target: &Target,
    ceilings: &mut Roofline,
    effort: &Budget<'_>,
    copy_effort: &Budget<'_>,
) -> Result<Ran, Error> {
    let place = target.place();
    if subject.case.dtype == DType::F16 && !target.f16() {
        let (op, expected) = (subject.op.name, "f32 on an adapter without f16 (SHADER_F16)");
        return Err(Error::setting(op, "dtype", expected, format!("f16 on {target}")));
    }
    let measured = subject.measure(&place, &ceilings.overhead, effort)?;
    let cost = subject.operator.cost();
    let copy = ceilings.copy_time(&place, cost.bytes() as u64, copy_effort)?;
    Ok(Ran { measured, cost, rows: subject.rows(), copy, floor: ceilings.floor(&cost) })
}

/// An error as an outcome: refused if the shape or a limit is the reason, failed if the device is.
fn told(error: &Error) -> Outcome {
    match error {
        Error::Device(_) | Error::NoAdapter(_) | Error::Kernel { .. } => Outcome::Failed(error.to_string()),
        _ => Outcome::Refused(error.to_string()),
    }
}

/// Turns a panic, which a failing driver can provoke, into an error.
fn guarded<T>(f: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::Device(text.unwrap_or("a panic without a message").lines().collect::<Vec<_>>().join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::measure::Place;

    fn measured(targets: &mut [Target], arguments: &str, watch: &mut dyn FnMut(Event<'_>)) -> Vec<Site> {
        measured_within(60.0, targets, arguments, watch)
    }

    fn measured_within(
        patience: f64,
        targets: &mut [Target],
        arguments: &str,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Vec<Site> {
        let words = ["bench"].into_iter().chain(arguments.split_whitespace());
        let matches = super::super::command().get_matches_from(words);
        let matrix = Matrix::of(&matches).unwrap();
        let stop = AtomicBool::new(false);
        let effort = Budget { repeat: 2, seconds: 0.05, stop: &stop };
        let watch = &mut |event: Event<'_>| {
            watch(event);
            Ok(())
        };
        run_within(patience, targets, &matrix, &effort, watch).unwrap()
    }

    /// One run of the second shape takes seconds on the fastest machine.
    #[test]
    fn a_shape_that_takes_too_long_is_given_up_and_the_next_is_measured() {
        let mut targets = [Target::Cpu];
        let sites =
            measured_within(2.0, &mut targets, "softmax linear --length 64,32768 --heads 8 --dim 64", &mut |_| {});
        let [site] = &sites[..] else { panic!("one site") };
        let rows: Vec<_> = site.rows.iter().map(|row| (row.job.name(), row.job.length(), row.status())).collect();
        assert_eq!(rows[..3].iter().map(|row| row.2).collect::<Vec<_>>(), ["ok", "ok", "refused"], "{rows:?}");
        let Outcome::Refused(text) = &site.rows[2].outcome else { panic!("not refused") };
        assert!(text.starts_with("given up after "), "{text}");
        assert!(rows.len() == 4 && rows[3].1 == 32768, "the next shape is tried: {rows:?}");
    }

    fn statuses(site: &Site) -> Vec<&'static str> {
        site.rows.iter().map(Row::status).collect()
    }

    /// What a watchdog's reset, a crash of the driver or a card that goes away look like.
    #[test]
    fn a_lost_device_costs_its_row_and_the_next_row_has_a_new_one() {
        let Some(target) = Target::any() else { return };
        let mut targets = [target, Target::Cpu];
        let sites = measured(&mut targets, "linear --length 16,32,48 --heads 1 --dim 8", &mut |event| {
            if let Event::Begin { job, target, .. } = event
                && let Place::Gpu(ctx) = target.place()
                && job.length() == 32
            {
                ctx.device().destroy();
            }
        });
        let [gpu, cpu] = &sites[..] else { panic!("two sites") };
        assert_eq!(statuses(gpu), ["ok", "failed", "ok"]);
        assert_eq!(statuses(cpu), ["ok", "ok", "ok"]);
        let Outcome::Failed(text) = &gpu.rows[1].outcome else { panic!("no failure") };
        assert!(text.starts_with("device: "), "{text}");
        assert_eq!((gpu.rows[1].shape().contains("N=32"), gpu.backend), (true, targets[0].backend()));
    }

    /// Before anything is known of the device at all.
    #[test]
    fn a_device_lost_while_ceilings_are_measured_is_replaced() {
        let Some(target) = Target::any() else { return };
        let mut targets = [target];
        let sites = measured(&mut targets, "linear --length 16 --heads 1 --dim 8", &mut |event| {
            if let Event::Roofline(target) = event
                && let Place::Gpu(ctx) = target.place()
            {
                ctx.device().destroy();
            }
        });
        assert_eq!(statuses(&sites[0]), ["ok"]);
        assert!(sites[0].ceilings.is_some());
    }

    /// Between a row's check and the end of its timings.
    #[test]
    fn a_device_lost_in_the_middle_of_a_row_is_an_outcome_too() {
        let Some(target) = Target::any() else { return };
        let mut targets = [target];
        let doomed = match targets[0].place() {
            Place::Gpu(ctx) => ctx.clone(),
            Place::Cpu => panic!("an adapter"),
        };
        let sites = measured(&mut targets, "linear --length 2048,16 --heads 8 --dim 64", &mut |event| {
            if let Event::Begin { job, .. } = event
                && job.length() == 2048
            {
                let doomed = doomed.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(std::time::Duration::from_millis(30));
                    doomed.device().destroy();
                });
            }
        });
        assert_eq!(statuses(&sites[0]), ["ok", "failed"], "shortest first");
        assert!(targets[0].reopen().is_ok());
    }

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let text = |f: fn() -> Result<(), Error>| guarded(f).unwrap_err().to_string();
        assert_eq!(text(|| panic!("one\ntwo {}", 3)), "device: one two 3");
        assert_eq!(text(|| panic!("plain")), "device: plain");
    }
}
