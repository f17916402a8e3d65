//! `subquad diff A B`.

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::{Outcome, args, report};
use crate::error::Error;
use crate::io::{self, is_dash};
use crate::tensor::{HostTensor, Shape, TensorMap};
use crate::verify::tolerance;

/// Default of `--tolerance`.
const TOLERANCE: &str = "2e-5";

/// `subquad diff`.
pub(super) fn command() -> Command {
    Command::new("diff")
        .about("Compare two tensor files, tensor by tensor")
        .after_help(
            "The error of a tensor is sqrt(sum (b - a)^2 / sum a^2), with A as the reference. A NaN or infinity equals \
             the same value in the same place; any other value that is not finite differs. Values are compared, not \
             storage types. Exit code: 0 if all tensors are equal, 1 if any differs.\n\n\
             --json: `shape` is null where the shapes differ, and `shapes` has both. A number that is not finite is \
             null, and `reason` says why.",
        )
        .arg(args::file("A").help("The reference; `-` is standard input"))
        .arg(args::file("B").help("The file to compare with it; `-` is standard input"))
        .arg(
            args::value("tolerance")
                .value_name("X")
                .default_value(TOLERANCE)
                .allow_negative_numbers(true)
                .help("Largest relative RMS error at which a tensor counts as equal"),
        )
        .arg(args::json())
        .arg(args::on("quiet", "Print only errors and --json; the exit code is the result"))
}

/// One tensor, in one file or in both.
struct Line {
    name: String,
    /// The dtypes in A and in B.
    dtypes: [Option<String>; 2],
    /// The shapes in A and in B.
    shapes: [Option<Shape>; 2],
    compared: Option<Compared>,
    /// Why it differs; none if it is equal.
    reason: Option<String>,
}

/// How far the values of two tensors of the same shape are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Compared {
    relative_rms: f64,
    max_abs: f64,
    /// Number of places where a value is not finite and the other differs from it.
    non_finite: usize,
}

/// Compares two tensor files.
pub(super) fn diff(matches: &ArgMatches) -> Result<Outcome, Error> {
    let word = args::word_of(matches, "tolerance").unwrap_or(TOLERANCE);
    let tolerance = match word.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => x,
        _ => return Err(Error::Usage(format!("diff: --tolerance: expected a number of 0 or more, found `{word}`"))),
    };
    let paths = [args::required(matches, "A")?, args::required(matches, "B")?];
    if paths.iter().all(|path| is_dash(path)) {
        return Err(Error::Usage("diff: only one file can be `-`, standard input".into()));
    }
    let [a, b] = [io::read(paths[0])?.tensors, io::read(paths[1])?.tensors];
    let lines = compare(&a, &b, tolerance);
    let differs = lines.iter().any(|line| line.reason.is_some());
    if args::is_on(matches, "json") {
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "diff",
            "tolerance": tolerance,
            "equal": !differs,
            "tensors": lines.iter().map(Line::json).collect::<Vec<_>>(),
        }))?;
    } else if !args::is_on(matches, "quiet") {
        let rows: Vec<_> = lines.iter().map(Line::row).collect();
        let header = ["tensor", "dtype", "shape", "relative RMS", "max |b-a|", "result"];
        report::stdout(&report::table(&header, &rows, &[3, 4]))?;
    }
    Ok(if differs { Outcome::Differs } else { Outcome::Done })
}

fn compare(a: &TensorMap, b: &TensorMap, tolerance: f64) -> Vec<Line> {
    let in_a = a.iter().map(|(name, tensor)| (name, Some(tensor), b.get(name)));
    let in_b = b.iter().filter(|(name, _)| a.get(name).is_none()).map(|(name, tensor)| (name, None, Some(tensor)));
    in_a.chain(in_b).map(|(name, a, b)| line(name, a, b, tolerance)).collect()
}

fn line(name: &str, a: Option<&HostTensor>, b: Option<&HostTensor>, tolerance: f64) -> Line {
    let mut line = Line {
        name: name.to_owned(),
        dtypes: [a, b].map(|tensor| Some(tensor?.dtype().to_string())),
        shapes: [a, b].map(|tensor| Some(tensor?.shape().clone())),
        compared: None,
        reason: None,
    };
    match (a, b) {
        (Some(a), Some(b)) if a.shape() == b.shape() => {
            let compared = values(&a.to_f64(), &b.to_f64());
            line.reason = if compared.non_finite > 0 {
                Some(format!("{} values that are not finite differ", compared.non_finite))
            } else if compared.relative_rms <= tolerance {
                None
            } else if let Some(why) = report::why_null(compared.relative_rms) {
                Some(format!("the error is {why}"))
            } else {
                Some(format!("over {tolerance:.0e}"))
            };
            line.compared = Some(compared);
        }
        (Some(_), Some(_)) => line.reason = Some("other shape".into()),
        (Some(_), None) => line.reason = Some("only in A".into()),
        _ => line.reason = Some("only in B".into()),
    }
    line
}

fn values(a: &[f64], b: &[f64]) -> Compared {
    let same = |x: f64, y: f64| x == y || (x.is_nan() && y.is_nan());
    let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
    let pairs = || a.iter().copied().zip(b.iter().copied());
    let non_finite = pairs().filter(|pair| !finite(pair) && !same(pair.0, pair.1)).count();
    let max_abs = pairs().filter(finite).map(|(x, y)| (y - x).abs()).fold(0.0, f64::max);
    let relative_rms = if pairs().all(|pair| finite(&pair)) {
        tolerance::relative_rms(b, a)
    } else {
        let (a, b): (Vec<_>, Vec<_>) = pairs().filter(finite).unzip();
        tolerance::relative_rms(&b, &a)
    };
    Compared { relative_rms, max_abs, non_finite }
}

impl Line {
    /// `a`, or `a / b` where the two files differ.
    fn both<T: ToString + PartialEq>([a, b]: &[Option<T>; 2]) -> String {
        match (a, b) {
            (Some(a), Some(b)) if a != b => format!("{} / {}", a.to_string(), b.to_string()),
            (a, b) => a.as_ref().or(b.as_ref()).map_or_else(String::new, T::to_string),
        }
    }

    fn row(&self) -> Vec<String> {
        let number = |of: fn(&Compared) -> f64| {
            self.compared.as_ref().map_or_else(|| "-".into(), |compared| format!("{:.2e}", of(compared)))
        };
        vec![
            self.name.clone(),
            Self::both(&self.dtypes),
            Self::both(&self.shapes),
            number(|compared| compared.relative_rms),
            number(|compared| compared.max_abs),
            self.reason.as_ref().map_or_else(|| "equal".into(), |why| format!("DIFFERS: {why}")),
        ]
    }

    fn json(&self) -> Value {
        let number = |of: fn(&Compared) -> f64| self.compared.as_ref().map(|compared| report::number(of(compared)));
        let [a, b] = &self.shapes;
        let shape = match (a, b) {
            (Some(a), Some(b)) => Some(a).filter(|a| *a == b),
            (a, b) => a.as_ref().or(b.as_ref()),
        };
        let shapes = [a, b].map(|shape| shape.as_ref().map(Shape::dims));
        json!({
            "name": self.name,
            "dtype": self.dtypes,
            "shape": shape.map(Shape::dims),
            "shapes": shapes,
            "relative_rms": number(|compared| compared.relative_rms),
            "max_abs": number(|compared| compared.max_abs),
            "non_finite_mismatches": self.compared.map(|compared| compared.non_finite),
            "equal": self.reason.is_none(),
            "reason": self.reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_finite_must_be_the_same() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let equal = Compared { relative_rms: 0.0, max_abs: 0.0, non_finite: 0 };
        assert_eq!(values(&[1.0, nan, inf, -inf], &[1.0, nan, inf, -inf]), equal);
        assert_eq!(values(&[nan, inf, 1.0], &[inf, -inf, nan]).non_finite, 3);
        let off = values(&[3.0, 4.0], &[3.0, 4.5]);
        assert_eq!((off.relative_rms, off.max_abs), (0.1, 0.5));
    }
}
