//! `subquad model run DIR`.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::{ArgMatches, Command};
use serde_json::json;

use super::{Runner, check_files, chunk_of, input, open, running};
use crate::cli::report::{self, Ui};
use crate::cli::{Outcome, args};
use crate::error::Error;
use crate::io;
use crate::model::spec::Head;
use crate::model::{Model, Session};
use crate::tensor::{DType, HostTensor, TensorMap};
use crate::verify::tolerance;

/// Tokens of the prefix that `--verify` compares.
const PREFIX: usize = 48;

/// Largest error of logits, relative RMS, that `--verify` accepts: in f32, and in f16.
const TOLERANCE: [f64; 2] = [2e-5, 2e-2];

/// Ranges of one label that are printed.
const RANGES: usize = 20;

pub(super) fn command() -> Command {
    running(super::subcommand("run", "Run a model on a text or on tokens, and write its logits [N, V]"))
        .arg(args::path("input").short('i').help(
            "File whose bytes or text the model reads; a .safetensors file has a tensor `tokens`; `-` is standard input",
        ))
        .arg(args::value("text").value_name("TEXT").help("Text that the model reads"))
        .arg(args::path("output").short('o').help("File to write `logits` to [default: not written]"))
        .arg(super::chunk())
        .arg(args::on("verify", "Also run the definitions in f64 on a short prefix; exit code 3 if logits differ"))
}

pub(super) fn run(matches: &ArgMatches) -> Result<Outcome, Error> {
    let mut ui = Ui::new(args::is_on(matches, "quiet"));
    check_files(&["input"], &["output"], matches)?;
    let model = open(matches)?;
    let chunk = chunk_of(matches, &model)?;
    let given = input(matches, &model)?;
    let runner = Runner::open(matches, &mut ui)?;
    let mut session = runner.session(&model)?;

    let start = Instant::now();
    let mut progress = ui.progress("model run");
    let count = given.tokens.len();
    let logits = match chunk.filter(|chunk| *chunk < count && !matches!(model.spec().head, Head::Class(_))) {
        None => session.run(&given.tokens)?,
        Some(chunk) => {
            let (mut rows, width) = (Vec::new(), model.spec().head.width(model.spec().vocab));
            session.chunks(&given.tokens, chunk, &mut |_, logits| {
                rows.extend(logits.to_f32());
                progress.set(rows.len() as f64 / width as f64 / count as f64);
                Ok(())
            })?;
            HostTensor::f32([count, width], rows)
        }
    };
    drop(progress);
    let seconds = start.elapsed().as_secs_f64();
    let non_finite = logits.non_finite();
    if non_finite > 0 {
        ui.warn(format!("model: {non_finite} logits are not finite"));
    }
    let error = if args::is_on(matches, "verify") { Some(verify(&model, &runner, &given.tokens)?) } else { None };
    if let Some(path) = args::path_of(matches, "output") {
        let tensors: TensorMap = [("logits".to_owned(), logits.clone())].into_iter().collect();
        let metadata: BTreeMap<String, String> = [
            ("model".to_owned(), model.folder().display().to_string()),
            ("version".to_owned(), concat!("subquad ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("adapter".to_owned(), runner.target.to_string()),
        ]
        .into_iter()
        .collect();
        io::write(path, &tensors, &metadata)?;
    }
    let ranges = ranges(&model, &logits);
    let limit = TOLERANCE[usize::from(runner.dtype == DType::F16)];
    let wrong = error.is_some_and(|error| error.is_nan() || error > limit);
    if args::is_on(matches, "json") {
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "model run",
            "target": runner.target.to_string(),
            "tokens": count,
            "logits": logits.shape().dims(),
            "seconds": seconds,
            "labels": ranges.iter().map(|(from, to, label)| json!([from, to, label])).collect::<Vec<_>>(),
            "error": error,
            "warnings": ui.warnings(),
        }))?;
    } else {
        let rate = count as f64 / seconds;
        let mut text = format!("{count} tokens in {seconds:.3} s, {rate:.0} tokens/s; logits {}\n", logits.shape());
        for (from, to, label) in ranges.iter().take(RANGES) {
            text.push_str(&format!("{from:>10} .. {to:<10} {label}\n"));
        }
        if ranges.len() > RANGES {
            text.push_str(&format!("{:>10} ranges more (--json lists all)\n", ranges.len() - RANGES));
        }
        if let Some(error) = error {
            let verdict = if wrong { "WRONG" } else { "ok" };
            text.push_str(&format!("logits: error {error:.1e}, at most {limit:.1e}: {verdict}\n"));
        }
        report::stdout(&text)?;
    }
    Ok(if wrong { Outcome::Wrong } else { Outcome::Done })
}

/// Relative RMS of the logits of a prefix beside those of the definitions in f64.
fn verify(model: &Model, runner: &Runner, tokens: &[u32]) -> Result<f64, Error> {
    let prefix = &tokens[..tokens.len().min(PREFIX)];
    let expected = Session::by_definition(model).dtype(runner.dtype).run(prefix)?;
    let found = runner.session(model)?.run(prefix)?;
    Ok(tolerance::relative_rms(&found.to_f64(), &expected.to_f64()))
}

/// Ranges of tokens with one label: the class of the largest logit.
fn ranges(model: &Model, logits: &HostTensor) -> Vec<(usize, usize, String)> {
    let spec = model.spec();
    if spec.head == Head::Lm {
        return Vec::new();
    }
    let values = logits.to_f32();
    let mut ranges: Vec<(usize, usize, usize)> = Vec::new();
    for (at, row) in values.chunks_exact(spec.head.width(spec.vocab)).enumerate() {
        let best = (0..row.len()).min_by(|a, b| row[*b].total_cmp(&row[*a])).unwrap_or(0);
        match ranges.last_mut() {
            Some((_, end, label)) if *label == best => *end = at + 1,
            _ => ranges.push((at, at + 1, best)),
        }
    }
    let name = |label: usize| spec.labels.get(label).cloned().unwrap_or_else(|| label.to_string());
    ranges.into_iter().map(|(from, to, label)| (from, to, name(label))).collect()
}
