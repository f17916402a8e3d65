//! `subquad bench [OP...]`: the time of each operator on this machine, compared with the hardware limits, and the length
//! from which it is faster than exact softmax.

mod compare;
mod format;
mod growth;
mod interrupt;
mod matrix;
mod plot;
mod record;
mod runner;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::report::{self, Ui};
use super::target::{Several, Target};
use super::{Outcome, args, signals};
use crate::error::Error;
use crate::io;
use crate::measure::Budget;
use compare::Old;
use format::{FORMATS, Format, Report};
use matrix::Matrix;
use record::{Occasion, Site};
use runner::Event;

/// `subquad bench`.
pub(super) fn command() -> Command {
    let append = |arg: Arg| arg.action(ArgAction::Append);
    let mut command = Command::new("bench")
        .about("Time operators, on one, several or all adapters")
        .after_help(HELP)
        .arg(args::ops("Operators to measure [default: all]"))
        .next_help_heading("Shapes");
    for (option, _, help) in matrix::OPTIONS {
        command = command.arg(args::value(option).value_name("LIST").allow_hyphen_values(true).help(help));
    }
    command
        .arg(
            append(args::value("dtype").value_name("DTYPE"))
                .value_delimiter(',')
                .value_parser(["f32", "f16"])
                .help("Storage type; can be repeated [default: f32]"),
        )
        .arg(
            append(args::value("shape").value_name("AXIS=LENGTH"))
                .value_delimiter(',')
                .help("Length of another axis, for example G=2; can be repeated"),
        )
        .arg(
            append(args::value("flag").value_name("NAME=VALUE"))
                .help("A flag of `run`, for the operators that have it; can be repeated"),
        )
        .arg(append(args::value("with").value_name("NAME")).help("Also draw this optional tensor; can be repeated"))
        .arg(args::layout_of_any())
        .arg(args::seed("Seed for drawing the inputs"))
        .next_help_heading("Where")
        .arg(args::adapters())
        .arg(args::backend())
        .arg(args::force_adapter())
        .arg(args::tier())
        .next_help_heading("How long")
        .arg(
            args::value("repeat")
                .value_name("COUNT")
                .allow_negative_numbers(true)
                .default_value("20")
                .help("Samples per shape, after an untimed warm-up"),
        )
        .arg(
            args::value("max-seconds")
                .value_name("X")
                .allow_negative_numbers(true)
                .default_value("10")
                .help("Stop timing a shape after this many seconds (always takes at least three samples)"),
        )
        .next_help_heading("Output")
        .arg(
            args::value("format")
                .value_name("FORMAT")
                .value_parser(PossibleValuesParser::new(FORMATS.map(|(name, _)| name)))
                .default_value("table")
                .help("Format of the results"),
        )
        .arg(
            args::path("output")
                .short('o')
                .help("File to write the results to; rewritten after every shape [default: standard output]"),
        )
        .arg(args::path("plot").help("SVG file to draw time over length and the roofline into"))
        .arg(args::path("compare").value_name("OLD.json").help("Compare times with an earlier result of --format json"))
        .arg(args::path("record").value_name("DIR").help("Also write a CSV file per adapter, DIR/ADAPTER/DATE.csv"))
        .arg(args::on("quiet", "Print only results and errors"))
}

const HELP: &str = "LIST is a list such as 1024,4096, a range such as 1024-65536*4 or 64-256+64, or several of these.

Each shape is first compared with the f64 reference, in at least 64 rows; a wrong result is not timed.

There are three kinds of time:
  kernel    one run of all kernels: a pass with several runs, measured by GPU timestamps, less an empty pass;
            `clock` is `wall` if the adapter has no timestamps. Upload and shader compilation are not included.
  prepared  the time of the host to bind tensors and to encode a dispatch
  cold      the plan with its pipelines, and the extra time of the first run. The disk caches of Mesa and NVIDIA
            drivers are turned off.

GB/s, GFLOP/s, `x copy` and `x roofline` count essential work only: each input is read once, each output written
once. `x copy` is the time divided by the time to copy as many bytes. `x roofline` is the time divided by the least
time possible at the bandwidth, multiply-add rate and exp2 rate measured before; data that fits in cache can exceed
this limit. `crossover` is the length from which an operator is faster than softmax.

A shape gets no further samples after 5 times --max-seconds (at least 10 s). On the cpu backend a run is given up
after 10 times --max-seconds (at least 20 s).

Exit codes: 0 done; 1 a device failed, or no shape could be measured; 2 usage; 3 a kernel is wrong; 4 no adapter of
the kind asked for, or one that computes wrong results; 130 or 143 interrupted by INT or TERM (results so far are
written; a second signal ends at once).";

/// Where results go.
struct Sinks {
    format: Format,
    output: Option<PathBuf>,
    plot: Option<PathBuf>,
    record: Option<PathBuf>,
}

/// Sets environment variables and the mask of signals, before any other thread starts: threads read the one and inherit the
/// other.
pub(super) fn prepare() {
    without_driver_caches();
    signals::install(interrupt::on_signal);
}

/// Measures operators.
pub(super) fn bench(matches: &ArgMatches) -> Result<Outcome, Error> {
    let occasion = Occasion::now();
    let mut ui = Ui::new(args::is_on(matches, "quiet"));
    let matrix = Matrix::of(matches)?;
    let repeat = count(matches, "repeat")?;
    let seconds = seconds(matches, "max-seconds")?;
    let sinks = Sinks::of(matches)?;
    let old = args::path_of(matches, "compare").map(Old::read).transpose()?;
    let Several { open: mut targets, failed } = Target::several(matches, false, &mut ui)?;

    let effort = Budget { repeat, seconds, stop: interrupt::stop() };
    let mut progress = ui.progress("bench");
    let nothing = Report { occasion: &occasion, sites: &[], old: old.as_ref(), interrupted: true, failed: &failed };
    let mut lines = 0;
    let mut kept = None;
    let mut share = 0.0;
    let sites = runner::run(&mut targets, &matrix, &effort, &mut |event| match event {
        Event::Roofline(target) => {
            progress.say(&format!("ceilings of {target}"));
            progress.set(0.0);
            Ok(())
        }
        Event::Begin { job, target, done, of } => {
            share = done as f64 / of as f64;
            progress.set(share);
            progress.say(&format!("{} N={} on {target}", job.name(), job.length()));
            Ok(())
        }
        Event::Waiting { sites } => {
            progress.set(share);
            if let Some(code) = interrupt::overdue() {
                // The run in progress does not end, and no thread can be ended: the process ends without it.
                let report = Report { sites, ..nothing };
                let finished = sinks.finish(&report, &ui);
                if let Err(error) = finished {
                    report::error(&error);
                }
                signals::exit(code);
            }
            Ok(())
        }
        Event::Row { sites, at } => {
            let report = Report { sites, ..nothing };
            sinks.keep(&report, &mut kept)?;
            if let Some(row) = sinks.streams().then(|| sites[at].rows.last()).flatten() {
                let head = if lines == 0 && sinks.format == Format::Csv { report.csv_header() } else { String::new() };
                progress.print(&(head + &report.line(&sites[at], row, sinks.format)))?;
                lines += 1;
            }
            if report::closed() {
                // Nobody reads the results that are still to come.
                interrupt::stop().store(true, Ordering::Relaxed);
            }
            Ok(())
        }
    })?;
    drop(progress);
    let signal = interrupt::received();
    let report = Report { sites: &sites, interrupted: signal.is_some(), ..nothing };
    sinks.finish(&report, &ui)?;
    Ok(outcome(&sites, signal, &failed))
}

/// Turns off the drivers' caches of compiled shaders on disk, so that creating a pipeline takes as long as the first time.
/// Variables that are set already stay.
fn without_driver_caches() {
    for (name, value) in [("MESA_SHADER_CACHE_DISABLE", "true"), ("__GL_SHADER_DISK_CACHE", "0")] {
        if std::env::var_os(name).is_none() {
            // SAFETY: no other thread runs yet, and no driver is loaded.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

fn outcome(sites: &[Site], signal: Option<u8>, failed: &[String]) -> Outcome {
    let any = |status| sites.iter().flat_map(|site| &site.rows).any(|row| row.status() == status);
    if any("wrong") {
        Outcome::Wrong
    } else if let Some(signal) = signal {
        Outcome::Interrupted(signal)
    } else if any("failed") || !any("ok") || !failed.is_empty() {
        Outcome::Failed
    } else {
        Outcome::Done
    }
}

fn count(matches: &ArgMatches, name: &str) -> Result<usize, Error> {
    let word = args::word_of(matches, name).unwrap_or_default();
    let refuse = || Error::Usage(format!("bench: --{name}: expected a whole number from 1, found `{word}`"));
    word.parse().ok().filter(|n| *n > 0).ok_or_else(refuse)
}

fn seconds(matches: &ArgMatches, name: &str) -> Result<f64, Error> {
    let word = args::word_of(matches, name).unwrap_or_default();
    let refuse = || Error::Usage(format!("bench: --{name}: expected a number above 0, found `{word}`"));
    word.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).ok_or_else(refuse)
}

impl Sinks {
    fn of(matches: &ArgMatches) -> Result<Self, Error> {
        let path = |name| args::path_of(matches, name).map(Path::to_path_buf);
        let word = args::word_of(matches, "format").unwrap_or("table");
        let format = FORMATS.into_iter().find(|(name, _)| *name == word).map_or(Format::Table, |(_, format)| format);
        let dash = |path: &PathBuf| io::is_dash(path);
        let sinks = Self {
            format,
            output: path("output").filter(|path| !dash(path)),
            plot: path("plot"),
            record: path("record"),
        };
        if sinks.plot.as_ref().is_some_and(|path| path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("svg"))) {
            return Err(Error::Usage("bench: --plot needs a file name that ends in .svg".into()));
        }
        let compare = path("compare");
        let named = [("--output", &sinks.output), ("--plot", &sinks.plot), ("--compare", &compare)];
        for (at, (name, path)) in named.iter().enumerate() {
            let Some(path) = path else { continue };
            for (other, second) in &named[at + 1..] {
                if second.as_ref().is_some_and(|second| io::same_file(path, second)) {
                    return Err(Error::Usage(format!("bench: {other} and {name} cannot be the same file")));
                }
            }
        }
        for path in [&sinks.output, &sinks.plot].into_iter().flatten() {
            io::text_check(path)?;
        }
        if let Some(folder) = &sinks.record {
            if folder.exists() && !folder.is_dir() {
                return Err(Error::file(folder, "expected a directory for records, found a file"));
            }
            std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, error.to_string()))?;
            io::text_check(&folder.join("record.csv"))?;
        }
        Ok(sinks)
    }

    /// Whether each row is printed on standard output as soon as it is measured.
    fn streams(&self) -> bool {
        self.output.is_none() && matches!(self.format, Format::Csv | Format::JsonLines)
    }

    /// Writes the results so far, so that an interrupted run keeps them; at most once a second.
    fn keep(&self, report: &Report<'_>, kept: &mut Option<Instant>) -> Result<(), Error> {
        let Some(path) = &self.output else { return Ok(()) };
        if kept.is_none_or(|kept| kept.elapsed() >= Duration::from_secs(1)) {
            io::write_text(path, &report.text(self.format))?;
            *kept = Some(Instant::now());
        }
        Ok(())
    }

    fn finish(&self, report: &Report<'_>, ui: &Ui) -> Result<(), Error> {
        match &self.output {
            Some(path) => {
                io::write_text(path, &report.text(self.format))?;
                ui.note(&format!("results: {}", report::path(path)));
            }
            None if self.streams() => {}
            None => report::stdout(&report.text(self.format))?,
        }
        if let Some(path) = &self.plot {
            io::write_text(path, &plot::svg(&pictures(report)))?;
            ui.note(&format!("pictures: {}", report::path(path)));
        }
        if let Some(folder) = &self.record {
            for site in report.sites.iter().filter(|site| !site.rows.is_empty()) {
                let folder = folder.join(site.folder());
                std::fs::create_dir_all(&folder).map_err(|error| Error::file(&folder, error.to_string()))?;
                let path = record_path(&folder, report.occasion.day());
                let one = Report { sites: std::slice::from_ref(site), ..*report };
                io::write_text(&path, &one.text(Format::Csv))?;
                ui.note(&format!("record: {}", report::path(&path)));
            }
        }
        Ok(())
    }
}

/// A new file for a record of that day. Existing files are kept.
fn record_path(folder: &Path, day: &str) -> PathBuf {
    let path = |number: usize| {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        folder.join(format!("{day}{suffix}.csv"))
    };
    (1..).map(path).find(|path| !path.exists()).unwrap_or_else(|| path(1))
}

fn pictures(report: &Report<'_>) -> Vec<plot::Picture> {
    let picture = |site: &Site| plot::Picture {
        title: site.title(),
        note: [&site.driver, &report.occasion.host, report.occasion.day(), record::COMMIT.unwrap_or_default()]
            .join("; "),
        bandwidth: site.ceilings.as_ref().map(|ceilings| ceilings.copy),
        peak: site.ceilings.as_ref().map(|ceilings| ceilings.multiply_add),
        series: growth::lines(site).iter().map(series).collect(),
    };
    report.sites.iter().map(picture).collect()
}

fn series(line: &growth::Line<'_>) -> plot::Series {
    let shape = line.first().map(format::shape).unwrap_or_default();
    let point = |row: &&record::Row| {
        let (ran, time) = (row.ran()?, row.time()?);
        Some(plot::Point {
            length: row.job.length() as f64,
            seconds: time.median,
            floor: Some(ran.floor.0),
            intensity: ran.cost.flops / ran.cost.bytes(),
            flops: ran.cost.flops / time.median,
        })
    };
    plot::Series { label: format!("{}, {shape}", line.name()), points: line.rows.iter().filter_map(point).collect() }
}
