//! `subquad diff A B`.

use clap::{ArgMatches, Command};
use serde_json::{Value, json};

use super::options::is_dash;
use super::{Outcome, args, report};
use crate::error::Error;
use crate::io;
use crate::ops::tolerance;
use crate::tensor::{HostTensor, TensorMap};

/// Tolerance of relative RMS unless told otherwise.
const TOLERANCE: &str = "2e-5";

/// `subquad diff`.
pub fn command() -> Command {
    Command::new("diff")
        .about("Compare two tensor files, tensor by tensor")
        .after_help(
            "The error of a tensor is the root of sum (b - a)^2 / sum a^2, with A as the reference. Equal NaNs and \
             infinities in equal places count as equal; any other value that is not finite differs. Values are \
             compared, not storage types. Exit code 1 if anything differs.",
        )
        .arg(args::file("A").help("The reference; `-` is standard input"))
        .arg(args::file("B").help("What is compared with it"))
        .arg(
            args::value("tolerance")
                .value_name("X")
                .default_value(TOLERANCE)
                .allow_negative_numbers(true)
                .help("Largest relative RMS error of a tensor that counts as equal"),
        )
        .arg(args::json())
        .arg(args::on("quiet", "Print nothing but errors, and --json; the exit code tells"))
}

/// One tensor of either file.
struct Line {
    name: String,
    /// Of A, of B.
    about: [Option<String>; 2],
    shape: Option<String>,
    compared: Option<Compared>,
    /// Why it differs.
    verdict: Option<String>,
}

/// Values of two tensors of one shape.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Compared {
    relative_rms: f64,
    max_abs: f64,
    /// Places where one value is not finite and the other is not the same.
    non_finite: usize,
}

/// Compares two tensor files.
pub fn diff(matches: &ArgMatches) -> Result<Outcome, Error> {
    let word = args::word_of(matches, "tolerance").unwrap_or(TOLERANCE);
    let tolerance = match word.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => x,
        _ => return Err(Error::Usage(format!("diff: --tolerance: expected a number of 0 or more, found `{word}`"))),
    };
    let paths = [args::required(matches, "A")?, args::required(matches, "B")?];
    if paths.iter().all(|path| is_dash(path)) {
        return Err(Error::Usage("diff: `-`: expected one file on standard input, found two".into()));
    }
    let [a, b] = [io::read(paths[0])?.tensors, io::read(paths[1])?.tensors];
    let lines = compare(&a, &b, tolerance);
    let differs = lines.iter().any(|line| line.verdict.is_some());
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
        about: [a, b].map(|tensor| Some(tensor?.dtype().to_string())),
        shape: a.or(b).map(|tensor| tensor.shape().to_string()),
        compared: None,
        verdict: None,
    };
    match (a, b) {
        (Some(a), Some(b)) if a.shape() == b.shape() => {
            let compared = values(&a.to_f64(), &b.to_f64());
            line.verdict = if compared.non_finite > 0 {
                Some(format!("{} values that are not finite differ", compared.non_finite))
            } else if compared.relative_rms <= tolerance {
                None
            } else {
                Some(format!("over {tolerance:.0e}"))
            };
            line.compared = Some(compared);
        }
        (Some(a), Some(b)) => {
            line.shape = Some(format!("{} / {}", a.shape(), b.shape()));
            line.verdict = Some("other shape".into());
        }
        (Some(_), None) => line.verdict = Some("only in A".into()),
        _ => line.verdict = Some("only in B".into()),
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
    fn dtype(&self) -> String {
        match &self.about {
            [Some(a), Some(b)] if a != b => format!("{a} / {b}"),
            [a, b] => a.clone().or_else(|| b.clone()).unwrap_or_default(),
        }
    }

    fn row(&self) -> Vec<String> {
        let number = |of: fn(&Compared) -> f64| {
            self.compared.as_ref().map_or_else(|| "-".into(), |compared| format!("{:.2e}", of(compared)))
        };
        vec![
            report::visible(&self.name),
            self.dtype(),
            self.shape.clone().unwrap_or_default(),
            number(|compared| compared.relative_rms),
            number(|compared| compared.max_abs),
            self.verdict.as_ref().map_or_else(|| "equal".into(), |why| format!("DIFFERS: {why}")),
        ]
    }

    fn json(&self) -> Value {
        let number = |of: fn(&Compared) -> f64| self.compared.as_ref().map(|compared| report::number(of(compared)));
        json!({
            "name": self.name,
            "dtype": self.about,
            "shape": self.shape,
            "relative_rms": number(|compared| compared.relative_rms),
            "max_abs": number(|compared| compared.max_abs),
            "non_finite_mismatches": self.compared.map(|compared| compared.non_finite),
            "equal": self.verdict.is_none(),
            "reason": self.verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_must_be_the_same() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let equal = Compared { relative_rms: 0.0, max_abs: 0.0, non_finite: 0 };
        assert_eq!(values(&[1.0, nan, inf, -inf], &[1.0, nan, inf, -inf]), equal);
        assert_eq!(values(&[nan, inf, 1.0], &[inf, -inf, nan]).non_finite, 3);
        let off = values(&[3.0, 4.0], &[3.0, 4.5]);
        assert_eq!((off.relative_rms, off.max_abs), (0.1, 0.5));
    }
}
