//! The command `subquad`. Each subcommand is a file; what they share is in `args` (the grammar), `target` (which
//! adapter), `report` (what is printed where). Nothing here knows an operator: everything comes from the rows of
//! [`OPS`](crate::ops::OPS).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adapters;
mod args;
mod bench;
mod cached;
mod check;
mod completions;
mod diff;
mod given;
mod inspect;
mod options;
mod report;
mod run;
mod sample;
mod summary;
mod target;
mod wgsl;

use std::ffi::OsString;
use std::process::ExitCode;

use crate::error::Error;

/// How a command that ran to its end is reported to the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Done.
    Done,
    /// A `diff` found a difference.
    Differs,
    /// `--verify`, `check` or `bench` found an error over its bound.
    Wrong,
    /// A `bench` went on to its end, but not everything could be measured.
    Failed,
    /// A `bench` was stopped, and kept what it had.
    Interrupted,
}

impl Outcome {
    const fn code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Differs | Outcome::Failed => 1,
            Outcome::Wrong => 3,
            // What shells report of a program that an interrupt ended.
            Outcome::Interrupted => 130,
        }
    }
}

/// Exit code of a command that could not run to its end.
const fn code(error: &Error) -> u8 {
    match error {
        Error::Usage(_) => 2,
        Error::NoAdapter(_) => 4,
        _ => 1,
    }
}

/// Parses the arguments (the program's name first), runs the command, and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    logging();
    let matches = match args::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version go to stdout with code 0, the rest to stderr with code 2. A closed pipe is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(&matches) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => {
            report::stderr(&format!("error: {error}"));
            ExitCode::from(code(&error))
        }
    }
}

fn dispatch(matches: &clap::ArgMatches) -> Result<Outcome, Error> {
    match matches.subcommand() {
        Some(("run", matches)) => {
            let (op, matches) = args::operator(matches)?;
            run::run(op, matches)
        }
        Some(("sample", matches)) => {
            let (op, matches) = args::operator(matches)?;
            sample::sample(op, matches)
        }
        Some(("diff", matches)) => diff::diff(matches),
        Some(("inspect", matches)) => inspect::inspect(matches),
        Some(("check", matches)) => check::check(matches),
        Some(("bench", matches)) => bench::bench(matches),
        Some(("adapters", matches)) => adapters::adapters(matches),
        Some(("wgsl", matches)) => wgsl::wgsl(matches),
        Some(("completions", matches)) => completions::completions(matches),
        _ => Err(Error::Usage("expected a command; `subquad --help` lists them".into())),
    }
}

/// Logs go to stderr, and only if `RUST_LOG` asks for them.
fn logging() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
    }
}
