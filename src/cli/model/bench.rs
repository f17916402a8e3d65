//! `subquad model bench DIR`.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::{ArgMatches, Command};
use serde_json::json;

use super::{Runner, count, open, running};
use crate::cli::report::{self, Ui};
use crate::cli::{Outcome, args};
use crate::error::Error;
use crate::gpu::Caps;
use crate::measure::Budget;
use crate::measure::roofline::Roofline;
use crate::model::Model;

/// Lengths of prompts if none is asked for.
const LENGTHS: [usize; 3] = [128, 512, 1024];

/// Tokens that are decoded behind each prompt if no number is asked for.
const DECODED: usize = 32;

pub(super) fn command() -> Command {
    running(super::subcommand(
        "bench",
        "Prefill and decode tokens per second, beside the floor that the bytes of a token set",
    ))
    .arg(args::value("lengths").value_name("N,N,..").help("Tokens of the prompts [default: 128,512,1024]"))
    .arg(
        args::value("tokens")
            .value_name("COUNT")
            .allow_negative_numbers(true)
            .help("Tokens decoded behind each prompt [default: 32]"),
    )
    .arg(
        args::value("repeats")
            .value_name("COUNT")
            .allow_negative_numbers(true)
            .help("Times that each is timed [default: 3]"),
    )
}

/// Times of one length, in seconds: the least of the repeats.
struct Row {
    length: usize,
    prefill: f64,
    decode: f64,
    /// Least seconds of a decoded token: its bytes at the rate of a copy.
    floor: f64,
}

pub(super) fn bench(matches: &ArgMatches) -> Result<Outcome, Error> {
    let mut ui = Ui::new(args::is_on(matches, "quiet"));
    let lengths = lengths(matches)?;
    let repeats = count(matches, "repeats")?.unwrap_or(3);
    let decoded = count(matches, "tokens")?.unwrap_or(DECODED);
    let model = open(matches)?;
    if !model.is_recurrent() {
        let text = "is needed to decode, and a mixer of this model has no state";
        return Err(Error::rule(model.spec().family, "causal", format!(" {text}")));
    }
    let runner = Runner::open(matches, &mut ui)?;
    let copy = Roofline::copy_rate(
        &runner.target.place(),
        &Budget { repeat: 5, seconds: 2.0, stop: &AtomicBool::new(false) },
    )?;
    let caps = runner.target.context().map_or_else(Caps::portable, |context| context.caps().clone());
    let mut rows = Vec::new();
    for length in lengths {
        let bytes: u64 = model.parts(length, &caps)?.iter().map(|part| part.bytes).sum();
        let row = time(&model, &runner, length, [decoded, repeats])?;
        rows.push(Row { floor: bytes as f64 / copy, ..row });
    }
    let bytes = model.weight_bytes();
    if args::is_on(matches, "json") {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({"length": row.length, "prefill_seconds": row.prefill, "prefill_tokens_per_second": row.length as f64 / row.prefill,
                       "decode_seconds_per_token": row.decode, "decode_tokens_per_second": 1.0 / row.decode,
                       "decode_bytes_per_second": bytes as f64 / row.decode, "decode_floor_seconds": row.floor})
            })
            .collect();
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "model bench",
            "target": runner.target.to_string(),
            "weight_bytes": bytes,
            "copy_bytes_per_second": copy,
            "rows": rows,
            "warnings": ui.warnings(),
        }))?;
        return Ok(Outcome::Done);
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            vec![
                row.length.to_string(),
                format!("{:.1}", row.prefill * 1e3),
                format!("{:.0}", row.length as f64 / row.prefill),
                format!("{:.2}", row.decode * 1e3),
                format!("{:.1}", 1.0 / row.decode),
                format!("{:.1}", bytes as f64 / row.decode / 1e9),
                format!("{:.2}", row.decode / row.floor),
            ]
        })
        .collect();
    let header = ["prompt", "prefill ms", "tokens/s", "decode ms/token", "tokens/s", "weights GB/s", "x floor"];
    let floor = format!("floor: the bytes of a token at the rate of a copy, {:.1} GB/s read and written\n", copy / 1e9);
    report::stdout(&(report::table(&header, &cells, &[0, 1, 2, 3, 4, 5, 6]) + &floor))?;
    Ok(Outcome::Done)
}

fn lengths(matches: &ArgMatches) -> Result<Vec<usize>, Error> {
    let Some(list) = args::word_of(matches, "lengths") else { return Ok(LENGTHS.to_vec()) };
    let one = |word: &str| match word.trim().parse::<usize>() {
        Ok(length) if length > 0 => Ok(length),
        _ => Err(Error::Usage(format!("model: --lengths: expected whole numbers of 1 or more, found `{word}`"))),
    };
    list.split(',').map(one).collect()
}

/// Times a prompt of so many tokens and what follows it. The first run, which reads weights and builds plans, is not timed.
fn time(model: &Model, runner: &Runner, length: usize, [decoded, repeats]: [usize; 2]) -> Result<Row, Error> {
    let vocab = model.spec().vocab as u32;
    let tokens: Vec<u32> = (0..length as u32).map(|at| at.wrapping_mul(2_654_435_761) % vocab).collect();
    let mut session = runner.session(model)?;
    let mut row = Row { length, prefill: f64::INFINITY, decode: f64::INFINITY, floor: 0.0 };
    for repeat in 0..=repeats {
        session.reset()?;
        let start = Instant::now();
        // Up to the logits of the last token, which is all that a text needs.
        if length > 1 {
            session.advance(&tokens[..length - 1], false)?;
        }
        session.advance(&tokens[length - 1..], true)?;
        let prefill = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for at in 0..decoded as u32 {
            session.advance(&[at % vocab], true)?;
        }
        let decode = start.elapsed().as_secs_f64() / decoded as f64;
        if repeat > 0 {
            row.prefill = row.prefill.min(prefill);
            row.decode = row.decode.min(decode);
        }
    }
    Ok(row)
}
