//! `subquad model score DIR`.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::{ArgMatches, Command};
use serde_json::json;

use super::{Runner, check_files, chunk_of, input, open, running};
use crate::cli::report::{self, Ui};
use crate::cli::{Outcome, args};
use crate::error::Error;
use crate::io;
use crate::tensor::HostTensor;

/// The logits behind the last token, with which a state file says how likely the next token was.
const LAST: &str = "logits";

pub(super) fn command() -> Command {
    running(super::subcommand("score", "Bits per byte and per token that a language model needs for a text"))
        .arg(args::path("input").short('i').required(true).help(
            "File whose bytes or text are scored; a .safetensors file has a tensor `tokens`; `-` is standard input",
        ))
        .arg(super::chunk())
        .arg(args::path("state-in").help("File with the state after the text before this one"))
        .arg(args::path("state-out").help("File to write the state after this text to"))
}

pub(super) fn score(matches: &ArgMatches) -> Result<Outcome, Error> {
    let mut ui = Ui::new(args::is_on(matches, "quiet"));
    check_files(&["input", "state-in"], &["state-out"], matches)?;
    let model = open(matches)?;
    model.check_lm("score")?;
    let chunk = chunk_of(matches, &model)?;
    let given = input(matches, &model)?;
    let runner = Runner::open(matches, &mut ui)?;
    let mut session = runner.session(&model)?;
    let mut last: Option<Vec<f32>> = None;
    if let Some(path) = args::path_of(matches, "state-in") {
        let mut state = io::read(path)?.tensors;
        last = state.remove(LAST).map(|logits| logits.to_f32()).filter(|logits| logits.len() == model.spec().vocab);
        session.set_state(state)?;
    }

    let start = Instant::now();
    let (count, mut done) = (given.tokens.len(), 0);
    let mut progress = ui.progress("model score");
    let (bits, predicted) = session.score(&given.tokens, chunk.unwrap_or(count), &mut last, &mut |tokens| {
        done += tokens;
        progress.set(done as f64 / count as f64);
    })?;
    drop(progress);
    let seconds = start.elapsed().as_secs_f64();
    if let Some(path) = args::path_of(matches, "state-out") {
        let mut state = session.state()?;
        if let Some(last) = last {
            state.insert(LAST, HostTensor::f32([last.len()], last));
        }
        let metadata: BTreeMap<_, _> = [("model".to_owned(), model.spec().family.to_owned())].into_iter().collect();
        io::write(path, &state, &metadata)?;
    }
    let per_token = (predicted > 0).then(|| bits / predicted as f64);
    let per_byte = given.bytes.map(|bytes| bits / bytes as f64).filter(|_| predicted > 0);
    if args::is_on(matches, "json") {
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "model score",
            "target": runner.target.to_string(),
            "tokens": predicted,
            "bits": bits,
            "bits_per_token": per_token,
            "bits_per_byte": per_byte,
            "bytes": given.bytes,
            "seconds": seconds,
            "warnings": ui.warnings(),
        }))?;
    } else {
        let shown = |bits: Option<f64>| bits.map_or("-".to_owned(), |bits| format!("{bits:.4}"));
        let row = vec![
            shown(per_byte),
            shown(per_token),
            predicted.to_string(),
            given.bytes.map_or("-".to_owned(), |bytes| bytes.to_string()),
            format!("{seconds:.3}"),
            format!("{:.0}", count as f64 / seconds),
        ];
        let header = ["bits/byte", "bits/token", "tokens", "bytes", "seconds", "tokens/s"];
        report::stdout(&report::table(&header, &[row], &[0, 1, 2, 3, 4, 5]))?;
    }
    Ok(Outcome::Done)
}
