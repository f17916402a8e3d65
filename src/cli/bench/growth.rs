//! How time grows with the length, and the length from which an operator is faster than softmax.

use serde_json::{Map, Value, json};

use super::super::{options, report};
use super::record::{Row, Site, round};
use crate::catalog::spec::Causality;
use crate::ops::BASELINE;

/// One form of an operator at all measured lengths, shortest first.
pub(super) struct Line<'a> {
    pub rows: Vec<&'a Row>,
}

/// `t = c N^exponent`, fitted to the logarithms by least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fit {
    pub exponent: f64,
    /// RMS residual of the logarithms, as a share of the time: 0.05 is 5 %. `None` for two lengths, which any power fits.
    pub residual: Option<f64>,
}

/// The length from which an operator is faster than softmax.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Crossover {
    /// The operator is softmax itself, or has no heads and is no alternative to it.
    Itself,
    /// Softmax was not measured in the same form at a common length, or was in several forms.
    NotMeasured,
    /// Faster at the shortest length already.
    Always(usize),
    /// Faster from this length on, interpolated between two measured ones.
    From(f64),
    /// Slower at the longest length.
    NotInRange(usize),
}

/// The lines of a site, ordered by operator.
pub(super) fn lines(site: &Site) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in sorted(site) {
        match lines.last_mut() {
            Some(line) if line.rows.first().is_some_and(|first| same_line(first, row)) => line.rows.push(row),
            _ => lines.push(Line { rows: vec![row] }),
        }
    }
    lines
}

/// Rows ordered by operator, form, storage type, shape and length, for people. They are measured in the order of length.
pub(super) fn sorted(site: &Site) -> Vec<&Row> {
    let place = |row: &Row| crate::ops::OPS.iter().position(|op| op.name == row.job.op.name);
    let mut rows: Vec<_> = site.rows.iter().collect();
    rows.sort_by_cached_key(|row| {
        let flags = options::as_typed(row.job.op, &row.job.case.flags);
        (place(row), flags, row.job.case.dtype.name(), others(row), row.job.length())
    });
    rows
}

/// All axes except the length.
pub(super) fn others(row: &Row) -> Vec<(&'static str, usize)> {
    let length = row.job.length();
    // An M equal to N says nothing new.
    row.job.shape.iter().copied().filter(|(letter, n)| *letter != "N" && !(*letter == "M" && *n == length)).collect()
}

fn same_line(a: &Row, b: &Row) -> bool {
    a.job.op.name == b.job.op.name
        && a.job.case.flags == b.job.case.flags
        && a.job.case.dtype == b.job.case.dtype
        && others(a) == others(b)
}

impl Line<'_> {
    /// The first row. It has everything that the rows have in common.
    pub(super) fn first(&self) -> Option<&Row> {
        self.rows.first().copied()
    }

    /// Operator and flags: `linear --no-normalize`.
    pub(super) fn name(&self) -> String {
        self.first().map_or_else(String::new, |row| row.job.name())
    }

    /// Length and seconds of each row.
    pub(super) fn times(&self) -> Vec<(usize, f64)> {
        self.rows.iter().filter_map(|row| Some((row.job.length(), row.time()?.median))).collect()
    }

    /// The fit, for two lengths or more.
    pub(super) fn fit(&self) -> Option<Fit> {
        fit(&self.times())
    }

    /// Compared with softmax in the same form among `lines`.
    pub(super) fn crossover(&self, lines: &[Line<'_>]) -> Crossover {
        let Some(own) = self.first() else { return Crossover::NotMeasured };
        let heads = own.job.op.axes.iter().any(|(letter, _)| *letter == "H");
        if own.job.op.name == BASELINE || !heads {
            return Crossover::Itself;
        }
        let masked =
            |row: &Row| row.job.op.causal != Causality::Never && row.job.case.flags.switch("causal") != Some(false);
        // Equal in the axes that both have.
        let alike = |row: &Row| {
            let theirs = others(row);
            let same = |(letter, n): &(&str, usize)| theirs.iter().all(|(other, m)| other != letter || m == n);
            others(own).iter().all(same) && row.job.case.dtype == own.job.case.dtype && masked(row) == masked(own)
        };
        let yardstick = |line: &&Line<'_>| {
            let whole = |row: &Row| row.job.op.name == BASELINE && row.job.case.flags.word("window").is_none();
            line.first().is_some_and(|row| whole(row) && alike(row))
        };
        let mut yardsticks = lines.iter().filter(yardstick);
        // If there are several, an operator that lacks the axes in which they differ cannot be compared.
        match (yardsticks.next(), yardsticks.next()) {
            (Some(yardstick), None) => crossover(&self.times(), &yardstick.times()),
            _ => Crossover::NotMeasured,
        }
    }
}

fn fit(times: &[(usize, f64)]) -> Option<Fit> {
    let points: Vec<_> = times.iter().map(|(n, t)| ((*n as f64).ln(), t.ln())).collect();
    let count = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (xx, xy) = points.iter().fold((0.0, 0.0), |(xx, xy), p| (xx + (p.0 - x).powi(2), xy + (p.0 - x) * (p.1 - y)));
    if points.len() < 2 || xx == 0.0 {
        return None;
    }
    let exponent = xy / xx;
    let left = points.iter().map(|p| (p.1 - y - exponent * (p.0 - x)).powi(2)).sum::<f64>() / count;
    Some(Fit { exponent, residual: (points.len() > 2).then(|| left.sqrt().exp_m1()) })
}

/// The length from which `own` is below `other` at every common length.
fn crossover(own: &[(usize, f64)], other: &[(usize, f64)]) -> Crossover {
    let both: Vec<_> = own.iter().filter_map(|(n, a)| Some((*n, a / other.iter().find(|(m, _)| m == n)?.1))).collect();
    let (Some((first, _)), Some((last, ratio))) = (both.first(), both.last()) else { return Crossover::NotMeasured };
    if *ratio >= 1.0 {
        return Crossover::NotInRange(*last);
    }
    let Some(at) = both.iter().rposition(|(_, ratio)| *ratio >= 1.0) else { return Crossover::Always(*first) };
    // Interpolated linearly in logarithms, where powers are straight lines.
    let ((n, a), (m, b)) = (both[at], both[at + 1]);
    let share = a.ln() / (a.ln() - b.ln());
    Crossover::From(((n as f64).ln() * (1.0 - share) + (m as f64).ln() * share).exp())
}

impl Crossover {
    /// For people.
    pub(super) fn text(self) -> String {
        match self {
            Crossover::Itself => "-".into(),
            Crossover::NotMeasured => format!("{BASELINE} not measured"),
            Crossover::Always(first) => format!("{first} or less"),
            Crossover::From(length) => format!("about {}", two_digits(length)),
            Crossover::NotInRange(last) => format!("not in range (to {last})"),
        }
    }
}

/// Two significant digits: an interpolation has no more.
fn two_digits(length: f64) -> u64 {
    let scale = 10f64.powf(length.log10().floor() - 1.0).max(1.0);
    ((length / scale).round() * scale) as u64
}

/// The numbers of a line as a record.
pub(super) fn record(line: &Line<'_>, lines: &[Line<'_>]) -> Map<String, Value> {
    let fit = line.fit();
    let crossover = line.crossover(lines);
    let first = line.first();
    let shape = first.map(others).unwrap_or_default();
    let pairs = [
        ("operator", json!(first.map(|row| row.job.op.name))),
        ("flags", json!(first.map(|row| options::as_typed(row.job.op, &row.job.case.flags)))),
        ("dtype", json!(first.map(|row| row.job.case.dtype.name()))),
        ("shape", json!(shape.iter().map(|(letter, n)| format!("{letter}={n}")).collect::<Vec<_>>().join(","))),
        ("lengths", json!(line.times().iter().map(|(n, _)| *n).collect::<Vec<_>>())),
        ("ns_a_token", json!(line.times().iter().map(|(n, t)| round(t * 1e9 / *n as f64)).collect::<Vec<_>>())),
        ("exponent", fit.map_or(Value::Null, |fit| report::number(round(fit.exponent)))),
        ("residual", fit.and_then(|fit| fit.residual).map_or(Value::Null, |left| report::number(round(left)))),
        (
            "faster_than_softmax_from",
            match crossover {
                Crossover::Always(first) => json!(first),
                Crossover::From(length) => report::number(length.round()),
                Crossover::NotInRange(_) => json!("not in range"),
                Crossover::Itself | Crossover::NotMeasured => Value::Null,
            },
        ),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_found_and_what_is_left_is_said() {
        let cubes: Vec<_> = [10, 20, 40].iter().map(|&n| (n, 7e-9 * (n as f64).powi(3))).collect();
        let exact = fit(&cubes).unwrap();
        assert!((exact.exponent - 3.0).abs() < 1e-12 && exact.residual.unwrap() < 1e-12, "{exact:?}");
        let bent = fit(&[(10, 1.0), (20, 2.2), (40, 4.0)]).unwrap();
        assert!((bent.exponent - 1.0).abs() < 1e-9, "{bent:?}");
        assert!((bent.residual.unwrap() - 0.046).abs() < 0.001, "{bent:?}");
        assert_eq!(fit(&[(10, 1.0), (20, 3.0)]).unwrap().residual, None, "a line through two points tells nothing");
        assert_eq!(fit(&[(10, 1.0)]), None);
        assert_eq!(fit(&[(10, 1.0), (10, 2.0)]), None);
    }

    #[test]
    fn a_crossover_lies_where_the_lines_meet() {
        let own = [(1024, 2.0), (4096, 8.0), (16384, 32.0)];
        let line = |times: [f64; 3]| [1024, 4096, 16384].into_iter().zip(times).collect::<Vec<_>>();
        let near = |found: Crossover, want: f64| matches!(found, Crossover::From(length) if (length / want - 1.0).abs() < 1e-9);
        assert!(near(crossover(&own, &line([1.0, 16.0, 256.0])), 2048.0));
        assert_eq!(crossover(&own, &line([3.0, 16.0, 256.0])), Crossover::Always(1024));
        assert_eq!(crossover(&own, &line([1.0, 4.0, 16.0])), Crossover::NotInRange(16384));
        // Faster at first and at the end, slower between: only the end counts.
        assert!(near(crossover(&own, &line([4.0, 4.0, 128.0])), 4096.0 * 4f64.powf(1.0 / 3.0)));
        assert_eq!(crossover(&own, &[(5, 1.0)]), Crossover::NotMeasured);
        assert_eq!(crossover(&own, &[]), Crossover::NotMeasured);
        assert_eq!(Crossover::From(2789.4).text(), "about 2800");
        assert_eq!(Crossover::From(7.4).text(), "about 7");
    }
}
