//! The command `subquad`. Each subcommand is a file. They share `args` (the grammar), `target` (which adapter) and `report`
//! (what is printed where). No file here knows an operator: everything comes from the rows of [`OPS`](crate::ops::OPS).
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod adapters;
mod args;
mod bench;
mod check;
mod completions;
mod diff;
mod finite;
mod headers;
mod inputs;
mod inspect;
mod kv_cache;
mod merge;
mod model;
mod names;
mod options;
mod pieces;
mod provenance;
mod reference;
mod report;
mod run;
mod sample;
mod signals;
mod summary;
mod target;
mod threads;
mod tips;
mod wgsl;

use std::ffi::OsString;

use crate::error::Error;
use tips::Explained;

/// How a command that ran to its end is reported to the shell, as an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Done.
    Done,
    /// A `diff` found a difference.
    Differs,
    /// `--verify`, `check` or `bench` found an error that exceeds its tolerance.
    Wrong,
    /// A `bench` ran to its end, but could not measure everything.
    Failed,
    /// A `bench` was stopped by a signal of that number, and kept its results.
    Interrupted(u8),
}

impl Outcome {
    const fn code(self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Differs | Outcome::Failed => 1,
            Outcome::Wrong => 3,
            // The status that shells report for a program ended by a signal: 130 for INT, 143 for TERM.
            Outcome::Interrupted(signal) => 128 + signal,
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

/// Parses the arguments (the program's name first), runs the command, and returns the exit code. `closed` says that standard
/// output was closed before the process started, so that nothing can be written to it.
pub fn main(arguments: impl IntoIterator<Item = OsString>, closed: bool) -> u8 {
    if closed {
        report::shut();
    }
    logging();
    let arguments: Vec<_> = arguments.into_iter().collect();
    let matches = match args::command().try_get_matches_from(&arguments) {
        Ok(matches) => matches,
        Err(error) => match tips::explain(error, &arguments) {
            Explained::Grammar(error) => {
                // Help and version go to stdout with code 0, the rest to stderr with code 2. A closed pipe is no failure.
                let text = error.render().to_string();
                if error.use_stderr() {
                    report::stderr_lines(&text);
                } else {
                    let _ = report::stdout(&text);
                }
                return u8::try_from(error.exit_code()).unwrap_or(2);
            }
            Explained::Sentence(error) => {
                report::error(&error);
                return code(&error);
            }
        },
    };
    // Before any other thread starts, so that all inherit the mask of signals. `bench` keeps what it has measured.
    if matches.subcommand_name() == Some("bench") {
        bench::prepare();
    } else {
        signals::install(signals::end);
    }
    if let Some(line) = threads::cap().filter(|_| !is_quiet(&matches)) {
        report::stderr(&line);
    }
    match dispatch(&matches) {
        Ok(outcome) => outcome.code(),
        Err(error) if reader_is_gone(&error) => 0,
        Err(error) => {
            report::error(&error);
            code(&error)
        }
    }
}

/// Whether the command has `--quiet`.
fn is_quiet(matches: &clap::ArgMatches) -> bool {
    args::is_on(matches, "quiet") || matches.subcommand().is_some_and(|(_, matches)| is_quiet(matches))
}

/// Whether a tensor file on standard output was not read to its end, which is no error.
fn reader_is_gone(error: &Error) -> bool {
    let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    // The system's own words, with a number on most systems.
    let words = [pipe.to_string(), "Broken pipe".to_owned()];
    matches!(error, Error::File { path, message }
        if path.as_os_str() == "standard output" && words.iter().any(|words| message.contains(words)))
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
        Some(("merge", matches)) => merge::merge(matches),
        Some(("model", matches)) => model::model(matches),
        Some(("check", matches)) => check::check(matches),
        Some(("bench", matches)) => bench::bench(matches),
        Some(("adapters", matches)) => adapters::adapters(matches),
        Some(("wgsl", matches)) => wgsl::wgsl(matches),
        Some(("completions", matches)) => completions::completions(matches),
        _ => Err(Error::Usage("no command given; `subquad --help` lists the commands".into())),
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
