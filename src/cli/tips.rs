//! What a mistyped command line probably meant: added to clap's own errors as tips.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::report::visible;
use crate::catalog::packed::Packed;
use crate::catalog::spec::Op;
use crate::error::Error;
use crate::ops::{self, OPS, PARTS};

/// An error of the grammar, with a tip where there is one for it.
pub(super) enum Explained {
    /// To be printed by clap, which knows the usage line.
    Grammar(Box<clap::Error>),
    /// A sentence of our own.
    Sentence(Error),
}

/// Adds a tip to an error of the grammar. `arguments` are those of the process, its name first.
pub(super) fn explain(mut error: clap::Error, arguments: &[OsString]) -> Explained {
    let words: Vec<_> = arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let command = words.first().map_or("", String::as_str);
    tame(&mut error);
    match error.kind() {
        ErrorKind::InvalidSubcommand if matches!(command, "run" | "sample") => {
            let name = text(&error, ContextKind::InvalidSubcommand).unwrap_or_default();
            return Explained::Sentence(Error::Usage(unknown_operator(command, &name, &suggested(&error))));
        }
        ErrorKind::InvalidSubcommand => {
            let name = text(&error, ContextKind::InvalidSubcommand).unwrap_or_default();
            if crate::ops::find(&name).is_some() {
                error.remove(ContextKind::SuggestedSubcommand);
                tip(&mut error, &format!("{name} is an operator: subquad run {name}"));
            }
        }
        ErrorKind::UnknownArgument => {
            let found = text(&error, ContextKind::InvalidArg).unwrap_or_default();
            if let Some(text) = unknown_argument(&found, &words) {
                error.remove(ContextKind::SuggestedArg);
                tip(&mut error, &text);
            }
        }
        _ => {}
    }
    Explained::Grammar(Box::new(error))
}

/// Replaces what a terminal would obey in the arguments that the error quotes, line breaks too.
fn tame(error: &mut clap::Error) {
    let quoted = error.context().filter_map(|(kind, value)| match value {
        ContextValue::String(text) => Some((kind, ContextValue::String(visible(text)))),
        ContextValue::Strings(all) => {
            Some((kind, ContextValue::Strings(all.iter().map(|text| visible(text)).collect())))
        }
        _ => None,
    });
    let quoted: Vec<_> = quoted.collect();
    for (kind, value) in quoted {
        error.insert(kind, value);
    }
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// Names of subcommands that clap finds similar, the most similar last.
fn suggested(error: &clap::Error) -> Vec<String> {
    match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::String(name)) => vec![name.clone()],
        Some(ContextValue::Strings(names)) => names.clone(),
        _ => Vec::new(),
    }
}

fn tip(error: &mut clap::Error, text: &str) {
    let tips = vec![StyledStr::from(text.to_owned())];
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
}

fn unknown_operator(command: &str, name: &str, similar: &[String]) -> String {
    let names = |ops: &[Op]| ops.iter().map(|op| op.name).collect::<Vec<_>>().join(", ");
    let hint = if is_file(name) {
        format!("; the operator comes before the file: subquad {command} OP {} {name}", file_flag(command))
    } else if let Some(similar) = similar.last() {
        format!("; did you mean `{similar}`?")
    } else {
        String::new()
    };
    format!("unknown operator `{name}`{hint} (operators: {}; parts: {})", names(OPS), names(PARTS))
}

/// The flag that a file of that command is given by.
fn file_flag(command: &str) -> &'static str {
    if command == "run" { "-i" } else { "-o" }
}

fn is_file(word: &str) -> bool {
    word != "-" && (word.contains(['.', '/']) || Path::new(word).exists())
}

fn unknown_argument(found: &str, words: &[String]) -> Option<String> {
    let command = words.first()?.as_str();
    if let Some(flag) = found.strip_prefix("--") {
        let flag = flag.split('=').next().unwrap_or(flag);
        return flag_of_another(flag, command);
    }
    if found.starts_with('-') || !matches!(command, "run" | "sample") {
        return None;
    }
    let is_given = |flags: [&str; 2]| {
        words.iter().any(|word| flags.iter().any(|flag| word == flag || word.starts_with(&format!("{flag}="))))
    };
    if command == "run" && !is_given(["-i", "--input"]) {
        Some(format!("to read this file, use `-i {found}`"))
    } else if !is_given(["-o", "--output"]) {
        Some(format!("to write to this file, use `-o {found}`"))
    } else {
        None
    }
}

/// Whose flag it is, if it is no flag of this command.
fn flag_of_another(flag: &str, command: &str) -> Option<String> {
    let plain = flag.strip_prefix("no-").unwrap_or(flag);
    let owners: Vec<_> = ops::all()
        .filter(|op| {
            let own = op.flags.iter().any(|own| own.name == flag || own.name == plain);
            let state = matches!(flag, "state-in" | "state-out") && !op.state.is_empty();
            let summary = flag == "summary-out" && op.summaries.is_some();
            let heads = match flag {
                "heads" if command == "run" => Packed::possible(op, "H"),
                "kv-heads" if command == "run" => Packed::possible(op, "G"),
                _ => false,
            };
            own || state || summary || heads || (op.recurrent && matches!(flag, "segment" | "decode"))
        })
        .map(|op| op.name)
        .collect();
    let (last, rest) = owners.split_last()?;
    if command == "bench" {
        return Some(format!("to set a flag of an operator, use `--flag {plain}=VALUE`"));
    }
    let owners = if rest.is_empty() { (*last).to_owned() } else { format!("{} and {last}", rest.join(", ")) };
    Some(format!("--{flag} is a flag of {owners}"))
}
