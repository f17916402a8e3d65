//! Trials: random configurations, damaged files, command lines and moments, many of them, from a seed that is printed. A plain
//! run takes about a minute, as part of the suite; `tools/trials` runs the long forms, and docs/reliability.md has their
//! counts.
//!
//! `SUBQUAD_TRIALS` is how many times as many there are as in a plain run, `SUBQUAD_SEED` the seed. `SUBQUAD_QUICK=1` runs an
//! eighth of a plain run.

mod bound;
mod commands;
mod dice;
#[cfg(unix)]
mod kills;
mod readers;
#[path = "../files/reading.rs"]
mod reading;
mod threads;

use libtest_mimic::{Arguments, Trial};

/// `SUBQUAD_TRIALS`; none in a plain run.
fn times() -> Option<usize> {
    std::env::var("SUBQUAD_TRIALS").ok()?.parse().ok()
}

/// Whether this is a short part of a plain run.
fn quick() -> bool {
    times().is_none() && std::env::var("SUBQUAD_QUICK").is_ok_and(|word| word == "1")
}

/// How many trials there are, for `plain` in a plain run.
fn count(plain: usize) -> usize {
    if quick() { plain.div_ceil(8) } else { plain * times().unwrap_or(1) }
}

/// A trial of the suite, named after its module and function.
fn trial(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name.to_owned(), move || {
        run();
        Ok(())
    })
}

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list {
        println!("SUBQUAD_SEED={} SUBQUAD_TRIALS={}", dice::seed(), times().unwrap_or(1));
    }
    // The longest first, so that all threads end together.
    let mut trials = commands::trials();
    trials.extend(readers::trials());
    #[cfg(unix)]
    trials.extend(kills::trials());
    trials.extend(bound::trials());
    trials.extend(threads::trials());
    libtest_mimic::run(&arguments, trials).exit();
}
