//! `subquad check [OP...]`.

use clap::{ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use super::report::{self, Progress, Ui};
use super::target::Target;
use super::{Outcome, args, summary};
use crate::catalog::case::Case;
use crate::catalog::random;
use crate::catalog::spec::Op;
use crate::error::Error;
use crate::operator::Rows;
use crate::tensor::DType;
use crate::verify::tolerance::{Comparison, Reference};

/// `subquad check`.
pub(super) fn command() -> Command {
    Command::new("check")
        .about("Run every case of the operators and compare with the CPU reference")
        .after_help(
            "Without --adapter and --backend it checks what `run` would take. `--adapter all` stands for every adapter, \
             software ones too, and the cpu backend. Shaders keep all of wgpu's checks. Exit code 3 if a case fails.",
        )
        .arg(args::ops("Operators to check [default: all, and all parts]"))
        .arg(args::adapters())
        .arg(args::backend())
        .arg(args::force_adapter())
        .arg(args::tier())
        .arg(args::on("quick", "Only the quick cases"))
        .arg(
            args::value("case")
                .value_name("NAME")
                .action(ArgAction::Append)
                .conflicts_with("quick")
                .help("Only the case of this name; may be repeated (--verbose prints the names)"),
        )
        .arg(args::on("verbose", "A line per case, not only per failure"))
        .arg(args::json())
        .arg(args::on("quiet", "Print nothing but errors, and --json"))
}

/// How many names an unknown one is answered with.
const NEAREST: usize = 3;

/// One operator on one target.
#[derive(Default)]
struct Tally {
    cases: usize,
    /// Cases in f16, on a target without it.
    skipped: usize,
    failed: usize,
    failures: Vec<String>,
    worst: Option<Worst>,
}

/// The verdict nearest to its bound, or farthest over it.
struct Worst {
    case: String,
    tensor: String,
    verdict: Comparison,
}

/// How the lines of cases are printed.
#[derive(Clone, Copy)]
struct Voice {
    failures: bool,
    all: bool,
}

/// Runs every case of the operators and compares with the CPU reference.
pub(super) fn check(matches: &ArgMatches) -> Result<Outcome, Error> {
    let mut ui = Ui::new(args::is_on(matches, "quiet"));
    let json = args::is_on(matches, "json");
    let quiet = args::is_on(matches, "quiet");
    let quick = args::is_on(matches, "quick");
    let ops = args::ops_of(matches, crate::ops::all());
    let named: Vec<&str> = matches.get_many::<String>("case").into_iter().flatten().map(String::as_str).collect();
    let cases = chosen(&ops, &named, quick)?;
    // If cases are named, the report leaves out operators that have none of them.
    let ops: Vec<_> = ops.into_iter().filter(|op| cases.iter().any(|(of, _)| of.name == op.name)).collect();
    let places = Target::several(matches, true, &mut ui)?;
    let voice = Voice { failures: !json && !quiet, all: !json && !quiet && args::is_on(matches, "verbose") };

    let mut progress = ui.progress("check");
    let mut tallies: Vec<Vec<Tally>> =
        ops.iter().map(|_| places.open.iter().map(|_| Tally::default()).collect()).collect();
    for (done, (op, case)) in cases.iter().enumerate() {
        progress.set(done as f64 / cases.len() as f64);
        let row = ops.iter().zip(&mut tallies).find(|(known, _)| known.name == op.name);
        if let Some((_, row)) = row {
            one(op, case, &places.open, row, &progress, voice)?;
        }
    }
    drop(progress);

    let lines =
        || ops.iter().zip(&tallies).flat_map(|(op, row)| row.iter().zip(&places.open).map(|(t, p)| (*op, p, t)));
    let wrong = !places.failed.is_empty() || lines().any(|(_, _, tally)| !tally.failures.is_empty());
    if json {
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "check",
            "version": env!("CARGO_PKG_VERSION"),
            "quick": quick,
            "ok": !wrong,
            "not_opened": places.failed,
            "results": lines().map(|(op, target, tally)| tally.json(op, target)).collect::<Vec<_>>(),
        }))?;
    } else if !quiet {
        let rows: Vec<_> = lines().map(|(op, target, tally)| tally.row(op, target)).collect();
        let header = ["operator", "ran on", "cases", "failed", "skipped", "worst error", "bound", "in"];
        report::stdout(&report::table(&header, &rows, &[2, 3, 4, 5, 6]))?;
        let skipped: usize = lines().map(|(_, _, tally)| tally.skipped).sum();
        if skipped > 0 {
            report::stdout(&format!("skipped: {skipped} cases in f16, on adapters without it\n"))?;
        }
    }
    Ok(if wrong { Outcome::Wrong } else { Outcome::Done })
}

/// The cases to run: those named, else all or the quick ones.
///
/// # Errors
/// [`Error::Usage`] if none of the operators has a case of a name; it says which names are nearest.
fn chosen(ops: &[&'static Op], named: &[&str], quick: bool) -> Result<Vec<(&'static Op, Case)>, Error> {
    let all: Vec<(&'static Op, Case)> =
        ops.iter().flat_map(|op| (op.cases)().into_iter().map(move |case| (*op, case))).collect();
    for name in named {
        if all.iter().any(|(_, case)| case.name == *name) {
            continue;
        }
        let mut near: Vec<(f64, &str)> =
            all.iter().map(|(_, case)| (strsim::jaro_winkler(name, &case.name), case.name.as_str())).collect();
        near.sort_by(|(a, x), (b, y)| b.total_cmp(a).then(x.cmp(y)));
        near.dedup_by_key(|(_, name)| *name);
        let near: Vec<_> = near.iter().take(NEAREST).map(|(_, name)| *name).collect();
        let of = match ops {
            [op] => op.name,
            _ => "the operators",
        };
        let text = format!("--case: no case of {of} is named `{name}`; the nearest names are {}", near.join(", "));
        return Err(Error::Usage(text));
    }
    let wanted = |case: &Case| if named.is_empty() { case.quick || !quick } else { named.contains(&&*case.name) };
    Ok(all.into_iter().filter(|(_, case)| wanted(case)).collect())
}

/// One case on every target; its reference is computed once.
fn one(
    op: &'static Op,
    case: &Case,
    targets: &[Target],
    row: &mut [Tally],
    progress: &Progress,
    voice: Voice,
) -> Result<(), Error> {
    let (operator, inputs) = (case.configure(op)?, random::inputs(op, case)?);
    let mut truth = None;
    for (target, tally) in targets.iter().zip(row) {
        if case.host && !matches!(target, Target::Cpu) {
            continue;
        }
        if case.dtype == DType::F16 && !target.f16() {
            tally.skipped += 1;
            continue;
        }
        tally.cases += 1;
        let place = format!("{} {case} on {target}", op.name);
        let verdicts = target.execute(&*operator, &inputs, true, &mut |_| {}).map(|run| {
            let truth = truth.get_or_insert_with(|| Reference::of(&*operator, &inputs, Rows::All));
            truth.compare(&*operator, &inputs, Rows::All, &run.outputs)
        });
        let failures = tally.failures.len();
        match verdicts {
            Err(error) => {
                tally.failures.push(format!("{case}: {error}"));
                if voice.failures {
                    progress.print(&format!("{place}: {error}: FAILED\n"))?;
                }
            }
            Ok(verdicts) => {
                for (tensor, verdict) in verdicts {
                    let line = format!("{tensor}: {}", summary::judgement(&verdict));
                    if voice.all || (voice.failures && !verdict.ok) {
                        progress.print(&format!("{place}: {line}\n"))?;
                    }
                    if !verdict.ok {
                        tally.failures.push(format!("{case}: {line}"));
                    }
                    tally.note(case, tensor, verdict);
                }
            }
        }
        tally.failed += usize::from(tally.failures.len() > failures);
    }
    Ok(())
}

/// Error as a share of its bound.
fn share(verdict: &Comparison) -> f64 {
    let share = verdict.error / verdict.bound;
    match share.is_nan() {
        // What must be exact and is.
        true if verdict.error == 0.0 => 0.0,
        true => f64::INFINITY,
        false => share,
    }
}

impl Tally {
    fn note(&mut self, case: &Case, tensor: String, verdict: Comparison) {
        if self.worst.as_ref().is_none_or(|worst| share(&verdict) > share(&worst.verdict)) {
            self.worst = Some(Worst { case: case.name.clone(), tensor, verdict });
        }
    }

    fn row(&self, op: &Op, target: &Target) -> Vec<String> {
        let worst = |of: fn(&Worst) -> String| self.worst.as_ref().map_or_else(|| "-".to_owned(), of);
        vec![
            op.name.to_owned(),
            target.to_string(),
            self.cases.to_string(),
            self.failed.to_string(),
            self.skipped.to_string(),
            worst(|worst| format!("{:.2e}", worst.verdict.error)),
            worst(|worst| format!("{:.2e}", worst.verdict.bound)),
            worst(|worst| format!("{} of {}", worst.tensor, worst.case)),
        ]
    }

    fn json(&self, op: &Op, target: &Target) -> Value {
        json!({
            "operator": op.name,
            "backend": target.backend(),
            "adapter": target.adapter(),
            "cases": self.cases,
            "failed": self.failed,
            "skipped_f16": self.skipped,
            "worst": self.worst.as_ref().map(|worst| json!({
                "case": worst.case,
                "tensor": worst.tensor,
                "error": report::number(worst.verdict.error),
                "bound": report::number(worst.verdict.bound),
            })),
            "failures": self.failures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::OPS;

    fn names(ops: &[&'static Op], named: &[&str], quick: bool) -> Result<Vec<String>, String> {
        let list = chosen(ops, named, quick).map_err(|error| error.to_string())?;
        Ok(list.into_iter().map(|(op, case)| format!("{} {case}", op.name)).collect())
    }

    #[test]
    fn cases_are_chosen_by_name() {
        let softmax = crate::ops::find("softmax").unwrap();
        let all: Vec<_> = OPS.iter().collect();
        assert_eq!(
            names(&[softmax], &["decode_f16", "length_63"], false).unwrap(),
            ["softmax length_63", "softmax decode_f16"]
        );
        let carried = names(&all, &["carried"], false).unwrap();
        assert!(carried.len() > 2 && carried.iter().all(|name| name.ends_with(" carried")), "{carried:?}");
        let (quick, full) = (names(&all, &[], true).unwrap(), names(&all, &[], false).unwrap());
        assert!(quick.len() < full.len() && quick.len() > 100);
    }

    #[test]
    fn an_unknown_case_is_answered_with_the_nearest() {
        let softmax = crate::ops::find("softmax").unwrap();
        let error = names(&[softmax], &["length_63", "decodef16"], false).unwrap_err();
        let start = "--case: no case of softmax is named `decodef16`; the nearest names are decode_f16, ";
        assert!(error.contains(start), "{error}");
        assert!(matches!(chosen(&OPS.iter().collect::<Vec<_>>(), &["x"], false), Err(Error::Usage(_))));
    }
}
