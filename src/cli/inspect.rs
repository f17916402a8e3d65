//! `subquad inspect FILE`.

use clap::{ArgMatches, Command};
use serde_json::json;

use super::{Outcome, args, report};
use crate::error::Error;
use crate::io;
use crate::io::Listing;

/// `subquad inspect`.
pub(super) fn command() -> Command {
    Command::new("inspect")
        .about("List name, dtype, shape, bytes and metadata of a tensor file, without reading its data")
        .arg(
            args::file("FILE")
                .help("A .safetensors or .npz file, a directory of .npy files, or `-` for standard input"),
        )
        .arg(args::json())
}

/// Lists the contents of a file.
pub(super) fn inspect(matches: &ArgMatches) -> Result<Outcome, Error> {
    let path = args::required(matches, "FILE")?;
    let listing = io::inspect(path)?;
    if args::is_on(matches, "json") {
        let tensors: Vec<_> = listing
            .entries
            .iter()
            .map(|entry| json!({"name": entry.name, "dtype": entry.dtype, "shape": entry.shape, "bytes": entry.bytes}))
            .collect();
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "inspect",
            "file": path.display().to_string(),
            "format": listing.format,
            "metadata": listing.metadata,
            "tensors": tensors,
        }))?;
    } else {
        report::stdout(&text(&listing))?;
    }
    Ok(Outcome::Done)
}

fn text(listing: &Listing) -> String {
    let total = listing.entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.bytes));
    let count = listing.entries.len();
    let mut text =
        format!("{}, {count} tensor{}, {}\n", listing.format, if count == 1 { "" } else { "s" }, report::bytes(total));
    let rows: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| {
            let lengths: Vec<_> = entry.shape.iter().map(u64::to_string).collect();
            let shape = format!("[{}]", lengths.join(", "));
            vec![entry.name.clone(), entry.dtype.clone(), shape, entry.bytes.to_string()]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&report::table(&["name", "dtype", "shape", "bytes"], &rows, &[3]));
    }
    if !listing.metadata.is_empty() {
        let rows: Vec<_> = listing.metadata.iter().map(|(key, value)| vec![key.clone(), value.clone()]).collect();
        text.push_str(&report::table(&["metadata", "value"], &rows, &[]));
    }
    text
}
