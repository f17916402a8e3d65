//! A run of `bench` as people and programs read it: tables, markdown, CSV, JSON, JSON lines.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::report;
use super::compare::{Change, Old};
use super::growth::{self, Line};
use super::record::{self, Occasion, Outcome, Row, Site};
use crate::ops::BASELINE;
use crate::verify::tolerance::Comparison;

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    Markdown,
    Csv,
    Json,
    JsonLines,
}

/// Names of the formats.
pub(super) const FORMATS: [(&str, Format); 5] = [
    ("table", Format::Table),
    ("md", Format::Markdown),
    ("csv", Format::Csv),
    ("json", Format::Json),
    ("jsonl", Format::JsonLines),
];

/// A run, or the part of it that is done, and what is needed to print it.
pub(super) struct Report<'a> {
    pub occasion: &'a Occasion,
    pub sites: &'a [Site],
    pub old: Option<&'a Old>,
    /// Whether it was interrupted.
    pub interrupted: bool,
    /// Adapters that did not open, and why.
    pub failed: &'a [String],
}

impl Report<'_> {
    /// The whole report as text.
    pub(super) fn text(&self, format: Format) -> String {
        match format {
            Format::Table | Format::Markdown => self.pages(format),
            Format::Json => report::json_text(&self.json()) + "\n",
            Format::Csv | Format::JsonLines => {
                let rows = || self.sites.iter().flat_map(|site| site.rows.iter().map(move |row| (site, row)));
                let head =
                    if format == Format::Csv && rows().next().is_some() { self.csv_header() } else { String::new() };
                rows().fold(head, |text, (site, row)| text + &self.line(site, row, format))
            }
        }
    }

    /// One row with all its fields, for the formats that have a line per row.
    pub(super) fn line(&self, site: &Site, row: &Row, format: Format) -> String {
        let record = self.record(site, row);
        match format {
            Format::JsonLines => report::json_text(&Value::Object(record)) + "\n",
            _ => csv(record.values().map(cell)),
        }
    }

    /// The header line of CSV.
    pub(super) fn csv_header(&self) -> String {
        let first = self.sites.iter().find_map(|site| Some(self.record(site, site.rows.first()?)));
        first.map_or_else(String::new, |record| csv(record.keys().cloned()))
    }

    fn record(&self, site: &Site, row: &Row) -> Map<String, Value> {
        let mut record = record::occasion(self.occasion);
        record.extend(record::site(site));
        record.extend(self.fields(site, row));
        record.extend(record::ceilings(site.ceilings.as_ref()));
        record
    }

    fn fields(&self, site: &Site, row: &Row) -> Map<String, Value> {
        let mut fields = row.fields();
        if let Some(old) = self.old {
            fields.extend(Change::fields(old.change(site, row)));
        }
        fields
    }

    fn json(&self) -> Value {
        let mut whole = record::occasion(self.occasion);
        whole.insert("command".into(), json!("bench"));
        whole.insert("interrupted".into(), json!(self.interrupted));
        whole.insert("not_opened".into(), json!(self.failed));
        let sites = self.sites.iter().map(|site| {
            let mut object = record::site(site);
            object.insert("ceilings".into(), Value::Object(record::ceilings(site.ceilings.as_ref())));
            let rows = site.rows.iter().map(|row| Value::Object(self.fields(site, row)));
            object.insert("rows".into(), rows.collect());
            let lines = growth::lines(site);
            let growth = lines.iter().map(|line| Value::Object(growth::record(line, &lines)));
            object.insert("growth".into(), growth.collect());
            Value::Object(object)
        });
        whole.insert("adapters".into(), sites.collect());
        Value::Object(whole)
    }

    fn pages(&self, format: Format) -> String {
        let mut text = String::new();
        for site in self.sites {
            let heading = if format == Format::Markdown { "## " } else { "" };
            let driver = if site.backend == "cpu" { &self.occasion.host } else { &site.driver };
            let _ = writeln!(text, "{heading}{} ({driver})\n", site.title());
            let _ = writeln!(text, "{}\n", ceilings(site));
            text.push_str(&grid(format, &self.kernels(site)));
            for page in [self.changes(site), efficiency(site), prepared(site), growth_table(site)] {
                if !page.rows.is_empty() {
                    text.push('\n');
                    text.push_str(&grid(format, &page));
                }
            }
            for note in self.notes(site) {
                let _ = write!(text, "\n{}{note}\n", if format == Format::Markdown { "- " } else { "" });
            }
            text.push('\n');
        }
        let commit = record::COMMIT.map_or_else(String::new, |commit| format!(" ({commit})"));
        let version = env!("CARGO_PKG_VERSION");
        let _ = writeln!(text, "subquad {version}{commit}, {}: {}", self.occasion.date, self.occasion.command);
        if self.interrupted {
            text.push_str("interrupted; showing partial results\n");
        }
        text
    }

    /// The time of each shape.
    fn kernels(&self, site: &Site) -> Page {
        let header = vec!["kernel", "N", "shape", "time", "p10", "p90", "ns/token", "error", "clock"];
        let rows = growth::sorted(site).into_iter().map(|row| {
            let mut cells = named(row);
            let Some((ran, time)) = row.ran().and_then(|ran| Some((ran, ran.time()?))) else {
                cells.push(row.status().to_uppercase());
                if let Some(ran) = row.ran() {
                    cells.resize(7, "-".into());
                    cells.push(error(&ran.measured.verdict));
                }
                cells.resize(header.len(), "-".into());
                return cells;
            };
            cells.extend([time.median, time.p10, time.p90].map(seconds));
            cells.push(digits(time.median * 1e9 / row.job.length() as f64));
            cells.push(error(&ran.measured.verdict));
            cells.push(ran.measured.kernel.map_or("-", |kernel| kernel.clock.name()).into());
            cells
        });
        Page { rows: rows.collect(), right: vec![1, 3, 4, 5, 6, 7], header }
    }

    /// The time of each shape compared with the earlier run.
    fn changes(&self, site: &Site) -> Page {
        let row = |row: &Row| {
            let change = self.old?.change(site, row)?;
            let times = [change.old, row.time()?.median].map(seconds);
            let compared = [digits(change.ratio), change.mark().to_owned()];
            Some(named(row).into_iter().chain(times).chain(compared).collect())
        };
        Page {
            header: vec!["change", "N", "shape", "old time", "time", "x old", "verdict"],
            rows: growth::sorted(site).into_iter().filter_map(row).collect(),
            right: vec![1, 3, 4, 5],
        }
    }

    /// Refusals, failures and warnings, in sentences.
    fn notes(&self, site: &Site) -> Vec<String> {
        let mut notes = Vec::new();
        for row in growth::sorted(site) {
            let what = format!("{} N={}", row.job.name(), row.job.length());
            match &row.outcome {
                Outcome::Refused(text) | Outcome::Failed(text) => {
                    notes.push(format!("{what} {}: {text}", row.status()))
                }
                Outcome::Ran(ran) if ran.measured.kernel.is_none() => {
                    let verdict = &ran.measured.verdict;
                    let text = "relative RMS error of the compared rows";
                    let (error, bound) = (verdict.error, verdict.bound);
                    notes.push(format!("{what} WRONG: {text} {error:.2e}, tolerance {bound:.2e}; not timed"));
                }
                Outcome::Ran(ran) => {
                    let Some(kernel) = ran.measured.kernel else { continue };
                    if kernel.rejected > 0 {
                        let text = "samples had invalid GPU timestamps, so all are measured with the host's clock";
                        notes.push(format!("{what}: {} of {} {text}", kernel.rejected, kernel.wall.count));
                    }
                    if let Some(off) = kernel.disagreement().filter(|off| off.abs() > 0.05) {
                        let times = [kernel.time, kernel.wall].map(|time| seconds(time.median));
                        let [gpu, wall] = times;
                        let text = format!("{gpu} by GPU timestamps, {wall} by the host's clock");
                        notes.push(format!("{what}: the clocks differ: {text} ({:+.0} %)", off * 100.0));
                    }
                }
            }
        }
        if let Some(ceilings) = site.ceilings.as_ref().filter(|ceilings| ceilings.rejected > 0) {
            let text = "samples of the ceilings had invalid GPU timestamps, so some use the host's clock";
            notes.push(format!("{} {text}", ceilings.rejected));
        }
        if let Some(old) = self.old {
            let missing =
                site.rows.iter().filter(|row| row.time().is_some() && old.change(site, row).is_none()).count();
            if missing > 0 {
                notes.push(format!(
                    "{missing} of {} shapes are not in the earlier run on this adapter",
                    site.rows.len()
                ));
            }
        }
        notes
    }
}

/// A table.
struct Page {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    /// Columns that are aligned right.
    right: Vec<usize>,
}

fn grid(format: Format, page: &Page) -> String {
    if format == Format::Table {
        return report::table(&page.header, &page.rows, &page.right);
    }
    let line = |cells: &mut dyn Iterator<Item = String>| format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
    let mut text = line(&mut page.header.iter().map(|cell| (*cell).to_owned()));
    let rule = |at| if page.right.contains(&at) { "---:" } else { "---" };
    text.push_str(&line(&mut (0..page.header.len()).map(|at| rule(at).to_owned())));
    for row in &page.rows {
        text.push_str(&line(&mut row.iter().map(|cell| cell.replace('|', "\\|"))));
    }
    text
}

/// The columns that name a row: operator with flags, length, other axes.
fn named(row: &Row) -> Vec<String> {
    vec![row.job.name(), row.job.length().to_string(), shape(row)]
}

fn error(verdict: &Comparison) -> String {
    format!("{:.1e}", verdict.error)
}

/// How near each shape comes to the limits of the hardware.
fn efficiency(site: &Site) -> Page {
    let row = |row: &Row| {
        let (ran, time) = (row.ran()?, row.time()?.median);
        let mut cells = named(row);
        let (floor, limit) = &ran.floor;
        let rates = [ran.cost.bytes() / time / 1e9, ran.cost.flops / time / 1e9, time / ran.copy, time / floor];
        cells.extend(rates.map(digits));
        cells.push(limit.name().into());
        cells.push(match site.backend {
            "cpu" => "-".into(),
            _ => report::bytes(ran.measured.workspace_bytes),
        });
        Some(cells)
    };
    Page {
        header: vec!["efficiency", "N", "shape", "GB/s", "GFLOP/s", "x copy", "x roofline", "limit", "workspace"],
        rows: growth::sorted(site).into_iter().filter_map(row).collect(),
        right: vec![1, 3, 4, 5, 6, 8],
    }
}

fn ceilings(site: &Site) -> String {
    let Some(ceilings) = &site.ceilings else { return "ceilings: not measured".into() };
    let mut parts = vec![
        format!("copy {} GB/s ({})", digits(ceilings.copy / 1e9), report::bytes(ceilings.copy_bytes)),
        format!("multiply-add {} GFLOP/s", digits(ceilings.multiply_add / 1e9)),
        format!("exp2 {} G/s", digits(ceilings.exp2 / 1e9)),
    ];
    match ceilings.dispatch {
        Some(dispatch) => {
            parts.push(format!("empty dispatch {}", seconds(dispatch)));
            parts.push(format!("submit and wait {}", seconds(ceilings.submit.median)));
        }
        None => parts.push(format!("wake all threads and wait {}", seconds(ceilings.submit.median))),
    }
    // Two lines, so that neither is longer than a table.
    let (rates, times) = parts.split_at(3);
    format!("ceilings: {},\n          {}", rates.join(", "), times.join(", "))
}

/// The time of a first use, and the host's time of every use.
fn prepared(site: &Site) -> Page {
    let rows = growth::sorted(site).into_iter().filter_map(|row| {
        let measured = &row.ran()?.measured;
        let (cold, prepared) = (measured.cold?, measured.prepared?);
        Some(vec![
            row.job.name(),
            row.job.length().to_string(),
            seconds(cold.plan),
            seconds(cold.first_run),
            seconds(prepared.bind),
            seconds(prepared.encode),
            prepared.dispatches.to_string(),
            measured.variant.clone(),
        ])
    });
    Page {
        header: vec!["cold, prepared", "N", "plan", "first run", "bind", "encode", "dispatches", "variant"],
        rows: rows.collect(),
        right: (1..7).collect(),
    }
}

fn growth_table(site: &Site) -> Page {
    let lines = growth::lines(site);
    let row = |line: &Line<'_>| {
        let first = line.first()?;
        let fit = line.fit();
        let number = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let each: Vec<_> = line.times().iter().map(|(n, t)| digits(t * 1e9 / *n as f64)).collect();
        Some(vec![
            line.name(),
            shape(first),
            each.join(" "),
            number(fit.map(|fit| format!("{:.2}", fit.exponent))),
            number(fit.and_then(|fit| fit.residual).map(|left| format!("{:.1} %", left * 100.0))),
            line.crossover(&lines).text(),
        ])
    };
    debug_assert_eq!(BASELINE, "softmax", "the help says so");
    Page {
        header: vec!["growth", "shape", "ns/token by length", "exponent", "residual", "crossover"],
        rows: lines.iter().filter_map(row).collect(),
        right: vec![2, 3, 4],
    }
}

/// The axes except the length, and the storage type: `H=8 D=64 f32`. Axes that repeat another are left out.
pub(super) fn shape(row: &Row) -> String {
    let others = growth::others(row);
    let of = |letter: &str| others.iter().find(|(known, _)| *known == letter).map(|(_, n)| *n);
    let plain = |letter: &str, n: usize| match letter {
        "B" => n == 1,
        "G" => Some(n) == of("H"),
        "E" => Some(n) == of("D"),
        _ => false,
    };
    let told = others.iter().filter(|(letter, n)| !plain(letter, *n)).map(|(letter, n)| format!("{letter}={n}"));
    told.chain([row.job.case.dtype.name().to_owned()]).collect::<Vec<_>>().join(" ")
}

fn seconds(time: f64) -> String {
    report::duration(Duration::from_secs_f64(time.max(0.0)))
}

/// Three digits.
pub(super) fn digits(x: f64) -> String {
    match x.abs() {
        x if !x.is_finite() => "-".into(),
        0.0 => "0".into(),
        ..0.01 => format!("{x:.1e}"),
        ..1.0 => format!("{x:.3}"),
        ..10.0 => format!("{x:.2}"),
        ..100.0 => format!("{x:.1}"),
        _ => format!("{x:.0}"),
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A line of RFC 4180, ended as Unix does.
fn csv(cells: impl Iterator<Item = String>) -> String {
    let quoted = cells.map(|cell| {
        let plain = !cell.contains(['"', ',', '\n', '\r']);
        if plain { cell } else { format!("\"{}\"", cell.replace('"', "\"\"")) }
    });
    format!("{}\n", quoted.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_csv_are_quoted_where_they_must_be() {
        let cells = ["a", "b,c", "d\"e", ""].map(str::to_owned);
        assert_eq!(csv(cells.into_iter()), "a,\"b,c\",\"d\"\"e\",\n");
    }

    #[test]
    fn three_digits_whatever_the_size() {
        let texts = [0.0, 0.00123, 0.1234, 1.234, 12.34, 123.4, 12345.6].map(digits);
        assert_eq!(texts, ["0", "1.2e-3", "0.123", "1.23", "12.3", "123", "12346"]);
        assert_eq!(digits(f64::INFINITY), "-");
    }

    #[test]
    fn markdown_escapes_what_would_end_a_cell() {
        let page = Page { header: vec!["a", "b"], rows: vec![vec!["x|y".into(), "1".into()]], right: vec![1] };
        assert_eq!(grid(Format::Markdown, &page), "| a | b |\n| --- | ---: |\n| x\\|y | 1 |\n");
    }
}
