//! What is printed where: results on stdout, everything else on stderr. A closed pipe causes no panic.
//!
//! Text from files and arguments cannot command a terminal: whatever is printed here has no control characters and none
//! that turn the direction of writing ([`io::hidden`]), except the line breaks that this crate wrote.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::error::Error;
use crate::io;

/// Work shorter than this shows no progress bar.
const PATIENCE: Duration = Duration::from_millis(400);

/// Where stderr is no terminal, long work prints a line this often, the first after as long.
const LINES: Duration = Duration::from_secs(10);

/// How often a progress bar is redrawn while a thread works.
const REDRAW: Duration = Duration::from_millis(100);

/// Columns that a table takes at most.
const WIDTH: u16 = 100;

/// Version of the JSON objects that `--json` prints; raised when a field changes its meaning.
pub(super) const SCHEMA: u32 = 1;

/// Letters of a cell that a table shows. The table library takes time of a higher order for longer ones.
const CELL: usize = 2000;

/// A line on stderr. It stays one line, whatever names it quotes.
pub(super) fn stderr(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", visible(line));
}

/// Prints text on stderr, line by line.
pub(super) fn stderr_lines(text: &str) {
    text.lines().for_each(stderr);
}

/// An error, as the last line of a command. The message of a compiler keeps its lines.
pub(super) fn error(error: &Error) {
    let text = format!("error: {error}");
    if matches!(error, Error::Kernel { .. }) { stderr_lines(&text) } else { stderr(&text) }
}

/// Whether the reader of stdout has gone away.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether stdout was closed from the start.
static SHUT: AtomicBool = AtomicBool::new(false);

/// Notes that stdout was closed before the process started: what is written to it now goes nowhere.
pub(super) fn shut() {
    SHUT.store(true, Ordering::Relaxed);
}

/// Refuses to write to a stdout that is closed.
fn check_open() -> Result<(), Error> {
    if SHUT.load(Ordering::Relaxed) {
        return Err(Error::file("standard output", "cannot be written: it is closed"));
    }
    Ok(())
}

/// Text on stdout. A reader that went away (`| head`) is no error; [`closed`] tells.
pub(super) fn stdout(text: &str) -> Result<(), Error> {
    check_open()?;
    let mut out = std::io::stdout().lock();
    match out.write_all(replaced(text, |c| io::hidden(c) && c != '\n').as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(error) => Err(Error::file("standard output", error.to_string())),
        Ok(()) => Ok(()),
    }
}

/// Whether nobody reads stdout any more, as far as the last write told: long work can end.
pub(super) fn closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

/// Refuses to write a tensor file to a terminal, which would show it as garbage, and to a stdout that is closed.
///
/// # Errors
/// [`Error::Usage`] or [`Error::File`].
pub(super) fn check_stream(of: &str, flag: &str) -> Result<(), Error> {
    check_open()?;
    if !std::io::stdout().is_terminal() {
        return Ok(());
    }
    let text = "standard output is a terminal, and a tensor file is binary; redirect it to a file or a pipe";
    Err(Error::Usage(format!("{of}: --{flag} -: {text}")))
}

/// One JSON object on stdout, on one line.
pub(super) fn json(value: &Value) -> Result<(), Error> {
    stdout(&(json_text(value) + "\n"))
}

/// A JSON value on one line. Characters that a terminal obeys are escaped, so that it stays complete.
pub(super) fn json_text(value: &Value) -> String {
    let mut out = String::new();
    // They occur in strings alone, and none of them is outside the basic plane.
    for c in value.to_string().chars() {
        if io::hidden(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

/// Notes, warnings and progress of one command.
#[derive(Debug, Default)]
pub(super) struct Ui {
    quiet: bool,
    warnings: Vec<String>,
}

impl Ui {
    /// Prints nothing on stderr if `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, warnings: Vec::new() }
    }

    /// Prints a line on stderr that a user may want to know.
    pub(super) fn note(&self, text: &str) {
        self.note_with(|| text.to_owned());
    }

    /// Like [`Ui::note`], for a text that takes time to find out.
    pub(super) fn note_with(&self, text: impl FnOnce() -> String) {
        if !self.quiet {
            stderr(&text());
        }
    }

    /// Prints a warning on stderr. It is part of the JSON report too.
    pub(super) fn warn(&mut self, text: String) {
        self.note(&format!("warning: {text}"));
        self.warnings.push(text);
    }

    /// Warnings so far.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Shows how far long work is: as a bar on a terminal, otherwise as a line every ten seconds.
    pub(super) fn progress(&self, what: &str) -> Progress {
        let way = match (self.quiet, std::io::stderr().is_terminal()) {
            (true, _) => Way::Silent,
            (false, true) => Way::Bar(None),
            (false, false) => Way::Lines,
        };
        let started = Instant::now();
        Progress { what: what.to_owned(), way, started, last: started }
    }

    /// Runs `work` on a thread of its own and shows how far it is until it ends. `share` says how much is done, `None` if
    /// that is not known.
    pub(super) fn watched<T: Send>(
        &self,
        what: &str,
        share: &dyn Fn() -> Option<f64>,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        let mut progress = self.progress(what);
        wait(work, &mut || progress.show(share()))
    }
}

/// Runs `work` on a thread of its own and calls `turn` ten times a second until it ends.
pub(super) fn wait<T: Send>(work: impl FnOnce() -> T + Send, turn: &mut dyn FnMut()) -> T {
    std::thread::scope(|scope| {
        // The sender is dropped when the work ends, even by a panic.
        let (sender, receiver) = mpsc::channel::<()>();
        let worker = scope.spawn(move || {
            let _sender = sender;
            work()
        });
        while receiver.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
            turn();
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// See [`Ui::progress`]. A bar is cleared when this is dropped.
pub(super) struct Progress {
    what: String,
    way: Way,
    started: Instant,
    /// When the last line was printed.
    last: Instant,
}

/// How progress is shown.
enum Way {
    Silent,
    /// A bar, once the work turns out to be long, and whether it shows a share.
    Bar(Option<(ProgressBar, bool)>),
    Lines,
}

impl Progress {
    /// Says what is being done.
    pub(super) fn say(&mut self, what: &str) {
        self.what = what.to_owned();
        if let Way::Bar(Some((bar, _))) = &self.way {
            bar.set_message(self.what.clone());
        }
    }

    /// Moves to this share of the work.
    pub(super) fn set(&mut self, share: f64) {
        self.show(Some(share));
    }

    /// Shows this share of the work, or only the time taken so far if the share is not known.
    pub(super) fn show(&mut self, share: Option<f64>) {
        let elapsed = self.started.elapsed();
        match &mut self.way {
            Way::Silent => {}
            Way::Bar(bar) => {
                if bar.is_none() && elapsed < PATIENCE {
                    return;
                }
                let (bar, shows_share) = bar.get_or_insert_with(|| {
                    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr());
                    let bar = bar.with_message(self.what.clone()).with_elapsed(elapsed);
                    bar.set_style(style(share.is_some()));
                    (bar, share.is_some())
                });
                if *shows_share != share.is_some() {
                    *shows_share = share.is_some();
                    bar.set_style(style(share.is_some()));
                }
                bar.set_prefix(time_left(elapsed, share));
                bar.set_position((share.unwrap_or(0.0).clamp(0.0, 1.0) * 1000.0) as u64);
                bar.tick();
            }
            Way::Lines => {
                if self.last.elapsed() >= LINES && share.is_none_or(|share| share < 1.0) {
                    self.last = Instant::now();
                    stderr(&line(&self.what, elapsed, share));
                }
            }
        }
    }

    /// Text on stdout, above the bar.
    pub(super) fn print(&self, text: &str) -> Result<(), Error> {
        match &self.way {
            Way::Bar(Some((bar, _))) => bar.suspend(|| stdout(text)),
            _ => stdout(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Way::Bar(Some((bar, _))) = &self.way {
            bar.finish_and_clear();
        }
    }
}

/// How a bar looks, with or without a share of the work.
fn style(share: bool) -> ProgressStyle {
    let template = if share { "{msg} [{bar:30}] {percent} %, {prefix}" } else { "{spinner} {msg}, {prefix}" };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// `softmax: 35 %, about 1 min 40 s left`.
fn line(what: &str, elapsed: Duration, share: Option<f64>) -> String {
    match share {
        Some(share) => format!("{what}: {:.0} %, {}", share.clamp(0.0, 1.0) * 100.0, time_left(elapsed, Some(share))),
        None => format!("{what}: {}", time_left(elapsed, None)),
    }
}

/// The time that is left if the rest goes as fast; the time so far where less than a hundredth is done.
fn time_left(elapsed: Duration, share: Option<f64>) -> String {
    match share {
        Some(share) if (0.01..=1.0).contains(&share) => {
            let left = elapsed.as_secs_f64() * (1.0 - share) / share;
            format!("about {} left", minutes(Duration::from_secs_f64(left)))
        }
        _ => format!("{} so far", minutes(elapsed)),
    }
}

/// Whole seconds, and minutes where there are any: `1 min 40 s`.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    if seconds < 60 { format!("{seconds} s") } else { format!("{} min {} s", seconds / 60, seconds % 60) }
}

/// Columns aligned by spaces, without borders, in at most [`WIDTH`] columns: longer cells are wrapped, very long ones cut.
/// Columns in `right` are aligned right.
pub(super) fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
    /// Spaces between columns. Those after the last are trimmed.
    const GAP: u16 = 2;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH + GAP);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| visible(&cut(cell))));
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, GAP));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// A duration as people read it: `1.23 ms`.
pub(super) fn duration(wall: Duration) -> String {
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
pub(super) fn bytes(count: u64) -> String {
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

/// Text from a file or an argument, on one line and without the characters that a terminal would obey.
pub(super) fn visible(text: &str) -> String {
    replaced(text, io::hidden).into_owned()
}

fn replaced(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&hidden) { Cow::Owned(text.replace(hidden, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A path in a line or a cell.
pub(super) fn path(path: &Path) -> String {
    visible(&path.display().to_string())
}

/// The start of a long cell, and how much of it is left out.
fn cut(cell: &str) -> Cow<'_, str> {
    match cell.char_indices().nth(CELL) {
        Some((at, _)) => {
            let (start, rest) = cell.split_at(at);
            Cow::Owned(format!("{start}… ({} more characters)", rest.chars().count()))
        }
        None => Cow::Borrowed(cell),
    }
}

/// Names of tensors in a sentence, as files spell them. A checkpoint has hundreds: only the first few are listed.
pub(super) fn names<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
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

/// A number in JSON. JSON has none for NaN and infinity: they become null, and [`why_null`] is the reason.
pub(super) fn number(x: f64) -> Value {
    if x.is_finite() { Value::from(x) } else { Value::Null }
}

/// What a number that [`number`] made null was.
pub(super) fn why_null(x: f64) -> Option<&'static str> {
    if x.is_nan() {
        Some("not a number")
    } else if x.is_infinite() {
        Some("infinite")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_how_much_is_done_and_the_time_left() {
        let at = |seconds, share| line("softmax", Duration::from_secs(seconds), share);
        assert_eq!(at(30, Some(0.25)), "softmax: 25 %, about 1 min 30 s left");
        assert_eq!(at(30, Some(0.75)), "softmax: 75 %, about 10 s left");
        assert_eq!(at(12, Some(0.001)), "softmax: 0 %, 12 s so far");
        assert_eq!(at(125, None), "softmax: 2 min 5 s so far");
    }

    #[test]
    fn a_table_takes_at_most_a_hundred_columns() {
        let rows = [vec!["a".into(), "word ".repeat(40), "1.5".into()], vec!["x".repeat(150), "b".into(), "2".into()]];
        let text = table(&["first", "second", "number"], &rows, &[2]);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert_eq!(text.matches("word").count(), 40, "{text}");
        // Short rows stay on one line, two spaces apart.
        assert_eq!(table(&["a", "b"], &[vec!["1".into(), "22".into()]], &[1]), "a   b\n1  22\n");
    }

    #[test]
    fn work_on_a_thread_gives_its_value_and_its_panic() {
        let mut turns = 0;
        let value = wait(
            || {
                std::thread::sleep(3 * REDRAW);
                7
            },
            &mut || turns += 1,
        );
        assert_eq!(value, 7);
        assert!(turns >= 1, "{turns}");
        let panicked = std::panic::catch_unwind(|| wait(|| std::panic::resume_unwind(Box::new(5)), &mut || {}));
        assert_eq!(panicked.map_err(|panic| panic.downcast_ref::<i32>().copied()), Err::<(), _>(Some(5)));
    }

    #[test]
    fn numbers_that_json_lacks_are_null() {
        assert_eq!((number(0.5), why_null(0.5)), (Value::from(0.5), None));
        assert_eq!((number(f64::NAN), why_null(f64::NAN)), (Value::Null, Some("not a number")));
        assert_eq!((number(f64::INFINITY), why_null(f64::INFINITY)), (Value::Null, Some("infinite")));
    }
}
