//! Trials: random configurations, command lines and moments, many of them, from a seed that is printed. A plain run is short,
//! as part of the suite; `tools/trials` runs the long forms, and docs/reliability.md has their counts.
//!
//! `SUBQUAD_TRIALS` is how many times as many there are as in a plain run, `SUBQUAD_SEED` the seed.

mod bound;
mod dice;

use libtest_mimic::{Arguments, Trial};

/// How many trials there are, for `plain` in a plain run.
fn count(plain: usize) -> usize {
    plain * std::env::var("SUBQUAD_TRIALS").ok().and_then(|word| word.parse().ok()).unwrap_or(1)
}

/// A trial of the suite, named after its module and function.
fn trial(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name.to_owned(), move || {
        run();
        Ok(())
    })
}

fn main() {
    libtest_mimic::run(&Arguments::from_args(), bound::trials()).exit();
}
