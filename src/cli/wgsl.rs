//! `subquad wgsl OP`.

use std::path::PathBuf;

use clap::{ArgMatches, Command};

use super::{Outcome, args, report};
use crate::error::Error;
use crate::gpu::source;
use crate::io;

/// `subquad wgsl`.
pub fn command() -> Command {
    Command::new("wgsl")
        .about("Print the final WGSL of an operator's kernels, complete")
        .after_help(
            "Each kernel is printed once, as its first case has it, or with --all in every specialisation. Overrides have \
             the values that the pipeline is made with.\n\n\
             Example: subquad wgsl softmax --all --dump shaders",
        )
        .arg(args::op().required(true))
        .arg(
            args::value("target")
                .value_name("TARGET")
                .value_parser(["web", "native"])
                .default_value("web")
                .help("Who compiles it: web has the `enable` lines browsers want, native those wgpu takes; so far the same"),
        )
        .arg(args::on("all", "Every specialisation that the operator's cases use"))
        .arg(args::value("kernel").value_name("TEXT").help("Only kernels whose name or specialisation contains this"))
        .arg(args::path("dump").value_name("DIR").help("Write a file NAME.wgsl for each into this directory"))
}

/// Prints or writes the kernels.
pub fn wgsl(matches: &ArgMatches) -> Result<Outcome, Error> {
    let op = args::word_of(matches, "op").and_then(crate::ops::find);
    let op = op.ok_or_else(|| Error::Usage("wgsl: expected an operator".into()))?;
    let wanted = args::word_of(matches, "kernel").unwrap_or("");
    let mut kernels = op.kernels();
    if !args::is_on(matches, "all") && wanted.is_empty() {
        let mut seen = Vec::new();
        kernels.retain(|(kernel, _)| !seen.contains(&kernel.name) && (seen.push(kernel.name), true).1);
    }
    let texts: Vec<(String, String)> = kernels
        .iter()
        .map(|(kernel, spec)| (spec.label(kernel), source::print(kernel, spec)))
        .filter(|(label, _)| label.contains(wanted))
        .collect();
    if texts.is_empty() {
        let names: Vec<_> = kernels.iter().map(|(kernel, _)| kernel.name).collect();
        let text = format!("wgsl: --kernel: expected part of a name such as {}, found `{wanted}`", names[0]);
        return Err(Error::Usage(text));
    }
    let Some(folder) = args::path_of(matches, "dump") else {
        let all: Vec<_> = texts.iter().map(|(_, text)| text.as_str()).collect();
        report::stdout(&all.join("\n"))?;
        return Ok(Outcome::Done);
    };
    if folder.exists() && !folder.is_dir() {
        return Err(Error::file(folder, "expected a directory to write into, found a file"));
    }
    std::fs::create_dir_all(folder).map_err(|error| Error::file(folder, error.to_string()))?;
    let mut lines = String::new();
    for (label, text) in &texts {
        let path: PathBuf = folder.join(format!("{label}.wgsl"));
        io::write_text(&path, text)?;
        lines.push_str(&format!("{}\n", path.display()));
    }
    report::stdout(&lines)?;
    Ok(Outcome::Done)
}
