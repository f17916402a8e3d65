//! `subquad bench [OP...]`: what each operator costs on this machine, how far that is from what the hardware allows, and
//! where it beats exact softmax.

mod compare;
mod format;
mod growth;
mod matrix;
mod plot;
mod record;
mod runner;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::report::{self, Ui};
use super::target::{Several, Target};
use super::{Outcome, args, options};
use crate::error::Error;
use crate::io;
use crate::ops::measure::Effort;
use compare::Old;
use format::{FORMATS, Format, Report};
use matrix::Matrix;
use record::{Occasion, Site};
use runner::Event;

/// `subquad bench`.
pub fn command() -> Command {
    let append = |arg: Arg| arg.action(ArgAction::Append);
    let mut command = Command::new("bench")
        .about("Time operators, on one, several or all adapters")
        .after_help(HELP)
        .arg(args::ops("Operators to measure (all)"))
        .next_help_heading("Shapes");
    for (option, _, help) in matrix::OPTIONS {
        command = command.arg(args::value(option).value_name("LIST").allow_hyphen_values(true).help(help));
    }
    command
        .arg(
            append(args::value("dtype").value_name("DTYPE"))
                .value_delimiter(',')
                .value_parser(["f32", "f16"])
                .help("Storage (f32)"),
        )
        .arg(append(args::value("shape").value_name("AXIS=LENGTH")).value_delimiter(',').help("A further axis, as G=2"))
        .arg(append(args::value("flag").value_name("NAME=VALUE")).help("A flag of `run`, for operators that read it"))
        .arg(append(args::value("with").value_name("NAME")).help("Also give this tensor, which a run can do without"))
        .arg(args::layout())
        .arg(args::seed("Seed of the inputs"))
        .next_help_heading("Where")
        .arg(args::adapters())
        .arg(args::backend())
        .next_help_heading("How long")
        .arg(
            args::value("repeat")
                .value_name("COUNT")
                .allow_negative_numbers(true)
                .default_value("20")
                .help("Timings of each shape, behind an untimed warm-up"),
        )
        .arg(
            args::value("max-seconds")
                .value_name("X")
                .allow_negative_numbers(true)
                .default_value("10")
                .help("Take no further timing of a shape after so long, but three in any case"),
        )
        .next_help_heading("Output")
        .arg(
            args::value("format")
                .value_name("FORMAT")
                .value_parser(PossibleValuesParser::new(FORMATS.map(|(name, _)| name)))
                .default_value("table")
                .help("How results are written"),
        )
        .arg(
            args::path("output")
                .short('o')
                .help("File for the results (standard output); up to date after every shape"),
        )
        .arg(args::path("plot").help("Pictures as SVG: time over length, and the roofline"))
        .arg(args::path("compare").value_name("OLD.json").help("Set times beside those of an earlier --format json"))
        .arg(args::path("record").value_name("DIR").help("Keep a CSV for each adapter as DIR/ADAPTER/DATE.csv"))
        .arg(args::on("quiet", "Print nothing but results and errors"))
}

const HELP: &str = "LIST is 1024,4096 or a range as 1024-65536*4 or 64-256+64, or several of these.

Each shape is compared with the f64 definition, at 64 rows or more, before it is timed; a wrong one is not timed. Times are \
of three kinds: cold (the plan with its pipelines; what the first run takes longer), prepared (what the host does to bind \
and to encode), and kernel (a run: by the device's stamps around a pass with several, less an empty pass; `clock` is wall \
where it has none). A first use is without the caches that Mesa and NVIDIA keep on disk. GB/s, GFLOP/s and the two ratios are of essential work: each input read once, each output written \
once. `x copy` is the time over that of copying as many bytes; `x floor` that over the least time that copy bandwidth, \
multiply-add and exp2 rates, measured before, allow; \
tensors that a cache holds may pass it.

Exit codes: 0 done, 1 a device failed or nothing could be measured, 2 usage, 3 a kernel is wrong, 4 no adapter of the kind \
asked for, 130 interrupted (what was measured is written; a second time ends at once).";

/// Set by an interrupt.
static STOP: AtomicBool = AtomicBool::new(false);

/// Where results go.
struct Sinks {
    format: Format,
    output: Option<PathBuf>,
    plot: Option<PathBuf>,
    record: Option<PathBuf>,
}

/// Measures operators.
pub fn bench(matches: &ArgMatches) -> Result<Outcome, Error> {
    without_driver_caches();
    let occasion = Occasion::now();
    let ui = Ui::new(args::is_on(matches, "quiet"));
    let matrix = Matrix::of(matches)?;
    let repeat = count(matches, "repeat")?;
    let seconds = seconds(matches, "max-seconds")?;
    let sinks = Sinks::of(matches)?;
    let old = args::path_of(matches, "compare").map(Old::read).transpose()?;
    let Several { open: mut targets, failed } = Target::several(matches, false, &ui)?;

    // Without a handler, an interrupt loses what was not written yet, and no more.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(Outcome::Interrupted.code().into());
        }
        report::stderr("interrupted: ending after this timing");
    });
    let effort = Effort { repeat, seconds, stop: &STOP };
    let mut progress = ui.progress("bench");
    let nothing = Report { occasion: &occasion, sites: &[], old: old.as_ref(), interrupted: true, failed: &failed };
    let mut lines = 0;
    let mut kept = None;
    let sites = runner::run(&mut targets, &matrix, &effort, &mut |event| match event {
        Event::Ceilings(target) => {
            progress.say(&format!("ceilings of {target}"));
            progress.set(0.0);
            Ok(())
        }
        Event::Begin { job, target, done, of } => {
            progress.set(done as f64 / of as f64);
            progress.say(&format!("{} N={} on {target}", job.name(), job.length()));
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
            Ok(())
        }
    })?;
    drop(progress);
    let interrupted = STOP.load(Ordering::Relaxed);
    let report = Report { sites: &sites, interrupted, ..nothing };
    sinks.finish(&report, &ui)?;
    Ok(outcome(&sites, interrupted, &failed))
}

/// Drivers keep compiled shaders on disk: with these a pipeline is as new as it would be on another machine. Variables
/// that are set already stay.
fn without_driver_caches() {
    for (name, value) in [("MESA_SHADER_CACHE_DISABLE", "true"), ("__GL_SHADER_DISK_CACHE", "0")] {
        if std::env::var_os(name).is_none() {
            // SAFETY: nothing else runs yet: no thread was started, no driver is loaded.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

fn outcome(sites: &[Site], interrupted: bool, failed: &[String]) -> Outcome {
    let any = |status| sites.iter().flat_map(|site| &site.rows).any(|row| row.status() == status);
    if any("wrong") {
        Outcome::Wrong
    } else if interrupted {
        Outcome::Interrupted
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
    let refuse = || Error::Usage(format!("bench: --{name}: expected a number over 0, found `{word}`"));
    word.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).ok_or_else(refuse)
}

impl Sinks {
    fn of(matches: &ArgMatches) -> Result<Self, Error> {
        let path = |name| args::path_of(matches, name).map(Path::to_path_buf);
        let word = args::word_of(matches, "format").unwrap_or("table");
        let format = FORMATS.into_iter().find(|(name, _)| *name == word).map_or(Format::Table, |(_, format)| format);
        let dash = |path: &PathBuf| options::is_dash(path);
        let sinks = Self {
            format,
            output: path("output").filter(|path| !dash(path)),
            plot: path("plot"),
            record: path("record"),
        };
        if sinks.plot.as_ref().is_some_and(|path| path.extension().is_none_or(|e| !e.eq_ignore_ascii_case("svg"))) {
            return Err(Error::Usage("bench: --plot: expected a file that ends in .svg".into()));
        }
        let compare = path("compare");
        let named = [("--output", &sinks.output), ("--plot", &sinks.plot), ("--compare", &compare)];
        for (at, (name, path)) in named.iter().enumerate() {
            let Some(path) = path else { continue };
            for (other, second) in &named[at + 1..] {
                if second.as_ref().is_some_and(|second| io::same_file(path, second)) {
                    let text = format!("{other}: expected another file than {name}, found the same");
                    return Err(Error::Usage(format!("bench: {text}")));
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

    /// Whether standard output has a line for each row as soon as it is known.
    fn streams(&self) -> bool {
        self.output.is_none() && matches!(self.format, Format::Csv | Format::JsonLines)
    }

    /// Writes what there is so far: whatever ends the process later, this stays. Once a second at most.
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
                ui.note(&format!("results: {}", path.display()));
            }
            None if self.streams() => {}
            None => report::stdout(&report.text(self.format))?,
        }
        if let Some(path) = &self.plot {
            io::write_text(path, &plot::svg(&pictures(report)))?;
            ui.note(&format!("pictures: {}", path.display()));
        }
        if let Some(folder) = &self.record {
            for site in report.sites.iter().filter(|site| !site.rows.is_empty()) {
                let folder = folder.join(site.folder());
                std::fs::create_dir_all(&folder).map_err(|error| Error::file(&folder, error.to_string()))?;
                let path = record_path(&folder, report.occasion.day());
                let one = Report { sites: std::slice::from_ref(site), ..*report };
                io::write_text(&path, &one.text(Format::Csv))?;
                ui.note(&format!("record: {}", path.display()));
            }
        }
        Ok(())
    }
}

/// A file for a record of that day: none that is there is written over.
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
