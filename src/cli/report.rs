//! What is printed where: results on stdout, everything else on stderr, and nothing panics on a closed pipe.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::error::Error;

/// Work shorter than this shows no progress bar.
const PATIENCE: Duration = Duration::from_millis(400);

/// Work smaller than this shows no spinner: a plain loop on one core takes a few tenths of a second.
const LONG_FLOPS: f64 = 5e8;

/// Version of the JSON objects that `--json` prints; raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// A line on stderr.
pub fn stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Text on stdout. A reader that went away (`| head`) is no error.
pub fn stdout(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::file("standard output", error.to_string())),
        _ => Ok(()),
    }
}

/// One JSON object on stdout, on one line.
pub fn json(value: &Value) -> Result<(), Error> {
    stdout(&format!("{value}\n"))
}

/// Notes, warnings and progress of one command.
#[derive(Debug, Default)]
pub struct Ui {
    quiet: bool,
    warnings: Vec<String>,
}

impl Ui {
    /// With `quiet`, stderr stays empty.
    pub fn new(quiet: bool) -> Self {
        Self { quiet, warnings: Vec::new() }
    }

    /// Something a user may want to know.
    pub fn note(&self, text: &str) {
        self.note_with(|| text.to_owned());
    }

    /// As [`Ui::note`], for what costs something to find out.
    pub fn note_with(&self, text: impl FnOnce() -> String) {
        if !self.quiet {
            stderr(&text());
        }
    }

    /// Something a user should know; it is part of the JSON report too.
    pub fn warn(&mut self, text: String) {
        self.note(&format!("warning: {text}"));
        self.warnings.push(text);
    }

    /// Warnings so far.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A progress bar that appears on a terminal once the work turns out to be long.
    pub fn progress(&self, what: &str) -> Progress {
        let shown = !self.quiet && std::io::stderr().is_terminal();
        Progress { what: what.to_owned(), shown, started: Instant::now(), bar: None }
    }

    /// A sign of life on a terminal during work of so many floating-point operations that cannot say how far it is.
    pub fn spinner(&self, what: &'static str, flops: f64) -> Spinner {
        if self.quiet || flops < LONG_FLOPS || !std::io::stderr().is_terminal() {
            return Spinner(None);
        }
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        Spinner(Some(bar))
    }
}

/// See [`Ui::progress`]. Cleared when dropped.
pub struct Progress {
    what: String,
    shown: bool,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Says what is being done.
    pub fn say(&mut self, what: &str) {
        self.what = what.to_owned();
        if let Some(bar) = &self.bar {
            bar.set_message(self.what.clone());
        }
    }

    /// Moves to this fraction of the work.
    pub fn set(&mut self, fraction: f64) {
        if !self.shown || (self.bar.is_none() && self.started.elapsed() < PATIENCE) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
            match ProgressStyle::with_template("{msg} [{bar:40}] {percent}% {eta}") {
                Ok(style) => bar.with_style(style.progress_chars("=> ")).with_message(self.what.clone()),
                Err(_) => bar,
            }
        });
        bar.set_position((fraction.clamp(0.0, 1.0) * 1000.0) as u64);
    }

    /// Text on stdout, above the bar.
    pub fn print(&self, text: &str) -> Result<(), Error> {
        match &self.bar {
            Some(bar) => bar.suspend(|| stdout(text)),
            None => stdout(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// See [`Ui::spinner`]. Cleared when dropped.
pub struct Spinner(Option<ProgressBar>);

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Columns aligned by spaces, without borders: for people, and for `awk`. Columns in `right` are aligned right.
pub fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    use comfy_table::{CellAlignment, Table, presets};
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        // Two spaces between columns, none before the first.
        column.set_padding((0, 2));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// A duration as people read it: `1.23 ms`.
pub fn duration(wall: Duration) -> String {
    let seconds = wall.as_secs_f64();
    if wall < Duration::from_micros(1) {
        format!("{} ns", wall.as_nanos())
    } else if seconds < 1e-3 {
        format!("{:.1} us", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

/// Bytes as people read them: `3.2 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// A file's own words, without the control characters that would reach the terminal.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Names of tensors in a sentence, as files spell them. A checkpoint has hundreds: the first few will do.
pub fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    const NAMES: usize = 16;
    const LETTERS: usize = 60;
    let mut all = all.into_iter();
    let mut words: Vec<_> = all
        .by_ref()
        .take(NAMES)
        .map(|name| match name.char_indices().nth(LETTERS) {
            Some((at, _)) => format!("{}…", visible(&name[..at])),
            None => visible(name),
        })
        .collect();
    match all.count() {
        0 if words.is_empty() => return "none".into(),
        0 => {}
        more => words.push(format!("and {more} more")),
    }
    words.join(", ")
}

/// A number in JSON; what JSON has no number for becomes a word.
pub fn number(x: f64) -> Value {
    if x.is_finite() { Value::from(x) } else { Value::from(x.to_string()) }
}
