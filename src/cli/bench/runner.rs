//! Measures jobs in places, one after another, whatever happens to a device on the way.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::target::Target;
use super::matrix::{Job, Matrix};
use super::record::{Outcome, Ran, Row, Site};
use crate::error::Error;
use crate::ops::ceilings::Ceilings;
use crate::ops::measure::{Effort, Subject};
use crate::tensor::DType;

/// How much to do for the ceilings, which all rows are set beside: long enough that a burst of other work does not hide
/// them.
const CEILINGS: (usize, f64) = (40, 2.0);
/// How much to do for a copy of the bytes of a row.
const COPIES: (usize, f64) = (10, 1.0);

/// What happens, as it happens.
pub enum Event<'a> {
    /// What a place can do at most is about to be found out.
    Ceilings(&'a Target),
    /// A job is about to be measured in a place; so many of all were before.
    Begin { job: &'a Job, target: &'a Target, done: usize, of: usize },
    /// The last row of that site is new.
    Row { sites: &'a [Site], at: usize },
}

/// A job, and the places that do it: they share its inputs and what is right of its outputs.
struct Task {
    job: Job,
    places: Vec<usize>,
}

/// Measures everything, or until `effort` is told to stop. Whatever goes wrong with a device is an outcome of its row, and
/// the next row has a fresh device.
///
/// # Errors
/// Too many jobs, and whatever `watch` returns.
pub fn run(
    targets: &mut [Target],
    matrix: &Matrix,
    effort: &Effort<'_>,
    watch: &mut dyn FnMut(Event<'_>) -> Result<(), Error>,
) -> Result<Vec<Site>, Error> {
    let tasks = tasks(targets, matrix)?;
    let total = tasks.iter().map(|task| task.places.len()).sum();
    let mut sites: Vec<_> = targets.iter().map(site).collect();
    // No more than was asked for, where that is little.
    let least = |(repeat, seconds): (usize, f64)| {
        let (repeat, seconds) = (repeat.min(2 * effort.repeat), seconds.min(effort.seconds));
        Effort { repeat, seconds, ..*effort }
    };
    let (ceiling_effort, copy_effort) = (least(CEILINGS), least(COPIES));
    // Whether the device of a place has failed: it is replaced before the next row.
    let mut broken = vec![false; targets.len()];
    for ((target, site), broken) in targets.iter_mut().zip(&mut sites).zip(&mut broken) {
        watch(Event::Ceilings(target))?;
        *broken = guarded(|| ready(target, site, false, &ceiling_effort)).is_err();
    }
    let mut done = 0;
    for Task { job, places } in tasks {
        if effort.stopped() {
            break;
        }
        let subject = guarded(|| Subject::new(job.op, job.case.clone()));
        for at in places {
            if effort.stopped() {
                break;
            }
            watch(Event::Begin { job: &job, target: &targets[at], done, of: total })?;
            let (target, site) = (&mut targets[at], &mut sites[at]);
            let outcome = match &subject {
                Err(error) => Outcome::Refused(error.to_string()),
                Ok(subject) => {
                    let ran = guarded(|| {
                        let ceilings = ready(target, site, broken[at], &ceiling_effort)?;
                        measure(subject, target, ceilings, effort, &copy_effort)
                    });
                    ran.map_or_else(|error| told(&error), |ran| Outcome::Ran(Box::new(ran)))
                }
            };
            broken[at] = matches!(outcome, Outcome::Failed(_));
            site.rows.push(Row { job: job.clone(), outcome });
            done += 1;
            watch(Event::Row { sites: &sites, at })?;
        }
    }
    Ok(sites)
}

/// Sees to it that a place has a device that works, and that what it can do at most is known.
fn ready<'a>(
    target: &mut Target,
    site: &'a mut Site,
    broken: bool,
    effort: &Effort<'_>,
) -> Result<&'a mut Ceilings, Error> {
    if broken {
        target.reopen()?;
    }
    match &mut site.ceilings {
        Some(ceilings) => Ok(ceilings),
        none => Ok(none.insert(Ceilings::measure(&target.place(), effort)?)),
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
    ceilings: &mut Ceilings,
    effort: &Effort<'_>,
    copy_effort: &Effort<'_>,
) -> Result<Ran, Error> {
    let place = target.place();
    if subject.case.dtype == DType::F16 && !target.f16() {
        let (op, expected) = (subject.op.name, "an adapter with f16 (SHADER_F16)");
        return Err(Error::setting(op, "dtype", expected, format!("{target} without it")));
    }
    let measured = subject.measure(&place, &ceilings.overhead, effort)?;
    let cost = subject.operator.cost();
    let copy = ceilings.copy_time(&place, cost.bytes() as u64, copy_effort)?;
    Ok(Ran { measured, cost, rows: subject.rows(), copy, floor: ceilings.floor(&cost) })
}

/// An error as an outcome: what a shape or a limit refuses, or what a device did.
fn told(error: &Error) -> Outcome {
    match error {
        Error::Device(_) | Error::NoAdapter(_) | Error::Kernel { .. } => Outcome::Failed(error.to_string()),
        _ => Outcome::Refused(error.to_string()),
    }
}

/// A panic below, as drivers that fail provoke them, is an error like others.
fn guarded<T>(f: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Error::Device(text.unwrap_or("a panic without words").lines().collect::<Vec<_>>().join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::ops::measure::Place;

    fn measured(targets: &mut [Target], arguments: &str, watch: &mut dyn FnMut(Event<'_>)) -> Vec<Site> {
        let words = ["bench"].into_iter().chain(arguments.split_whitespace());
        let matches = super::super::command().get_matches_from(words);
        let matrix = Matrix::of(&matches).unwrap();
        let stop = AtomicBool::new(false);
        let effort = Effort { repeat: 2, seconds: 0.05, stop: &stop };
        let watch = &mut |event: Event<'_>| {
            watch(event);
            Ok(())
        };
        run(targets, &matrix, &effort, watch).unwrap()
    }

    fn statuses(site: &Site) -> Vec<&'static str> {
        site.rows.iter().map(Row::status).collect()
    }

    /// What a watchdog's reset, a crash of the driver or a card that goes away look like.
    #[test]
    fn a_lost_device_costs_its_row_and_the_next_has_a_fresh_one() {
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
            if let Event::Ceilings(target) = event
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
