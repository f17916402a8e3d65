//! `subquad wgsl OP`.

use std::path::PathBuf;

use clap::{ArgMatches, Command};

use super::{Outcome, args, report};
use crate::catalog::spec::Op;
use crate::error::Error;
use crate::gpu::shader;
use crate::io;
use crate::ops;

/// `subquad wgsl`.
pub(super) fn command() -> Command {
    Command::new("wgsl")
        .about("Print the final WGSL of an operator's kernels, complete")
        .after_help(
            "Each kernel is printed once, in the specialisation of its first case; --all prints every specialisation. \
             Overrides have the values that the pipeline is created with.\n\n\
             Example: subquad wgsl softmax --all --dump shaders",
        )
        .arg(
            args::op()
                .required_unless_present("all")
                .help("Operator whose kernels to print [default: all, with --all]"),
        )
        .arg(
            args::value("target")
                .value_name("TARGET")
                .value_parser(["web", "native"])
                .default_value("web")
                .help("Compiler to write for: web has the `enable` lines that browsers need, native those of wgpu"),
        )
        .arg(args::on("all", "Print every specialisation that the operator's cases use"))
        .arg(
            args::value("kernel")
                .value_name("TEXT")
                .help("Print only kernels whose name or specialisation contains TEXT"),
        )
        .arg(
            args::path("dump").value_name("DIR").help("Write a file NAME.wgsl per kernel into DIR instead of printing"),
        )
}

/// Prints or writes the kernels.
pub(super) fn wgsl(matches: &ArgMatches) -> Result<Outcome, Error> {
    let wanted = args::word_of(matches, "kernel").unwrap_or("");
    let mut kernels: Vec<_> = args::ops_of(matches, ops::all()).into_iter().flat_map(Op::kernels).collect();
    if !args::is_on(matches, "all") && wanted.is_empty() {
        let mut seen = Vec::new();
        kernels.retain(|(kernel, _)| !seen.contains(&kernel.name) && (seen.push(kernel.name), true).1);
    }
    // Operators share some kernels.
    let mut labels = Vec::new();
    let mut is_new = |label: &String| !labels.contains(label) && (labels.push(label.clone()), true).1;
    let texts: Vec<(String, String)> = kernels
        .iter()
        .map(|(kernel, spec)| (spec.label(kernel), kernel, spec))
        .filter(|(label, ..)| label.contains(wanted) && is_new(label))
        .map(|(_, kernel, spec)| (spec.file_stem(kernel), shader::print(kernel, spec)))
        .collect();
    if texts.is_empty() {
        let example = kernels.first().map_or("", |(kernel, _)| kernel.name);
        let text = format!("wgsl: --kernel: no kernel has `{wanted}` in its name (one of the names is {example})");
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
        lines.push_str(&format!("{}\n", report::path(&path)));
    }
    report::stdout(&lines)?;
    Ok(Outcome::Done)
}
