//! `subquad model inspect DIR`.

use clap::{ArgMatches, Command};
use serde_json::json;

use super::{count, open};
use crate::cli::{Outcome, args, report};
use crate::error::Error;
use crate::gpu::Caps;

/// Length at which states are stated if none is asked for.
const LENGTH: usize = 1024;

pub(super) fn command() -> Command {
    super::subcommand("inspect", "List layers, parameters, state bytes, and what a token takes; read no weights").arg(
        args::value("len")
            .value_name("N")
            .allow_negative_numbers(true)
            .help("Length of the sequence whose state is stated [default: 1024]"),
    )
}

pub(super) fn inspect(matches: &ArgMatches) -> Result<Outcome, Error> {
    let length = count(matches, "len")?.unwrap_or(LENGTH);
    let model = open(matches)?;
    let spec = model.spec();
    let parts = model.parts(length, &Caps::portable())?;
    let dispatches: usize = parts.iter().map(|part| part.dispatches).sum();
    let states: u64 = parts.iter().map(|part| part.state_bytes).sum();
    let moved: u64 = parts.iter().map(|part| part.bytes).sum();
    if args::is_on(matches, "json") {
        let rows: Vec<_> = parts
            .iter()
            .map(|part| {
                json!({"name": part.name, "mixer": part.mixer, "parameters": part.parameters, "state_bytes": part.state_bytes,
                       "dispatches": part.dispatches, "bytes_per_token": part.bytes})
            })
            .collect();
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "model inspect",
            "family": spec.family,
            "vocab": spec.vocab,
            "hidden": spec.hidden,
            "causal": spec.causal,
            "layers": spec.layers.len(),
            "parameters": model.parameters(),
            "weight_bytes": model.weight_bytes(),
            "length": length,
            "state_bytes": states,
            "dispatches": dispatches,
            "bytes_per_token": moved,
            "parts": rows,
        }))?;
        return Ok(Outcome::Done);
    }
    let mut text = format!(
        "{}: {} layers of width {}, vocabulary {}, {} parameters, {} of weights\nstate of a sequence of {length} tokens: {}\n\
         the token after them: {} dispatches, which read and write {}\n",
        spec.family,
        spec.layers.len(),
        spec.hidden,
        spec.vocab,
        model.parameters(),
        report::bytes(model.weight_bytes()),
        report::bytes(states),
        dispatches,
        report::bytes(moved),
    );
    let rows: Vec<_> = parts
        .iter()
        .map(|part| {
            vec![
                part.name.clone(),
                part.mixer.to_owned(),
                part.parameters.to_string(),
                part.state_bytes.to_string(),
                part.dispatches.to_string(),
                part.bytes.to_string(),
            ]
        })
        .collect();
    text.push_str(&report::table(
        &["part", "mixer", "parameters", "state bytes", "dispatches", "bytes"],
        &rows,
        &[2, 3, 4, 5],
    ));
    report::stdout(&text)?;
    Ok(Outcome::Done)
}
