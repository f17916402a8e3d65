//! The grammar of the command line, built from the rows of [`OPS`]: `subquad run OP --help` shows the tensors, flags and
//! defaults of its row.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, ColorChoice, Command, value_parser};

use super::{adapters, bench, check, completions, diff, inspect, merge, model, names, sample, wgsl};
use crate::catalog::attention::LSE;
use crate::catalog::flags::FlagKind;
use crate::catalog::packed::Packed;
use crate::catalog::spec::{Causality, Op, Role, TensorSpec};
use crate::error::Error;
use crate::ops::{self, OPS, PARTS};
use crate::tensor::Layout;

/// Values of `--backend`.
pub(super) const BACKENDS: [&str; 6] = ["auto", "vulkan", "metal", "dx12", "gl", "cpu"];

const CODES: &str = "Exit codes:
  0  done
  1  failed: a bad file or shape, a diff that differs, --strict
  2  usage: the command line is wrong
  3  --verify, check or bench found a wrong result
  4  no adapter of the kind asked for, or one that computes wrong results";

/// The whole command.
pub(super) fn command() -> Command {
    Command::new("subquad")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Sub-quadratic sequence mixing (linear attention and related operators) on any GPU, or on the CPU")
        .after_help(CODES)
        .color(ColorChoice::Never)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(per_operator("run", "Run one operator on the tensors in a file", run))
        .subcommand(per_operator("sample", "Write a valid random input file for an operator", sample::command))
        .subcommand(diff::command())
        .subcommand(inspect::command())
        .subcommand(merge::command())
        .subcommand(model::command())
        .subcommand(check::command())
        .subcommand(bench::command())
        .subcommand(adapters::command())
        .subcommand(wgsl::command())
        .subcommand(completions::command())
}

/// A command with one subcommand per operator.
fn per_operator(name: &'static str, about: &'static str, one: fn(&'static Op) -> Command) -> Command {
    Command::new(name)
        .about(about)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand_value_name("OP")
        .subcommand_help_heading("Operators")
        .disable_help_subcommand(true)
        .subcommands(OPS.iter().map(one))
        .after_help(format!("Parts of operators that run alone:\n{}", parts()))
        .subcommands(PARTS.iter().map(|part| one(part).hide(true)))
}

/// The parts with a line each, for help.
fn parts() -> String {
    PARTS.iter().map(|part| format!("  {:<10} {}\n", part.name, part.summary)).collect()
}

/// The operator that was named, with its arguments. The grammar has accepted the name already.
pub(super) fn operator(matches: &ArgMatches) -> Result<(&'static Op, &ArgMatches), Error> {
    let found = matches.subcommand().and_then(|(name, matches)| Some((crate::ops::find(name)?, matches)));
    found.ok_or_else(|| Error::Usage("no operator given".into()))
}

/// An operator by position, for commands that have none of its flags.
pub(super) fn op() -> Arg {
    Arg::new("op").value_name("OP").value_parser(PossibleValuesParser::new(ops::all().map(|op| op.name)))
}

/// Several operators by position, for commands that use all of them if none is named.
pub(super) fn ops(help: &'static str) -> Arg {
    op().action(ArgAction::Append).help(help)
}

/// The operators and parts that were named, in the order of their tables; `unnamed` if none was.
pub(super) fn ops_of(matches: &ArgMatches, unnamed: impl Iterator<Item = &'static Op>) -> Vec<&'static Op> {
    let named: Vec<_> = matches.get_many::<String>("op").into_iter().flatten().collect();
    if named.is_empty() {
        return unnamed.collect();
    }
    ops::all().filter(|op| named.iter().any(|name| *name == op.name)).collect()
}

/// `subquad run OP`.
fn run(op: &'static Op) -> Command {
    let mut command = Command::new(op.name)
        .about(op.summary)
        .after_help(manual(op))
        .next_help_heading("Files")
        .arg(path("input").short('i').required(true).help("File with the input tensors; `-` is standard input"))
        .arg(
            path("output")
                .short('o')
                .help("File to write the outputs to; `-` is standard output [default: not written]"),
        )
        .arg(path("params").help("Second file with weights, for tensors that --input lacks"));
    if !op.state.is_empty() {
        command = command
            .arg(path("state-in").help("File with the state to start from, all of its tensors"))
            .arg(path("state-out").help("File to write the state after the last token to"))
            .arg(state_any());
    }
    if op.outputs.iter().any(|spec| spec.name == LSE.name) {
        command = command
            .arg(path("lse-out").help("File to write `lse` to, the logarithm of the sum of exponentials of every row"));
    }
    if op.summaries.is_some() {
        command = command.arg(path("summary-out").help(
            "File to write what the tokens do to any state that enters them (for `subquad merge`); --state-in has no effect on it",
        ));
    }
    command = command
        .arg(
            path("save-params")
                .help("File to write the parameters drawn from --seed to; not written if none are drawn"),
        )
        .args(names::args())
        .next_help_heading("Options of this operator");
    command = own(command, op);

    let [causal, no_causal] = switch("causal");
    command = command
        .next_help_heading("Common options")
        .arg(
            causal
                .help("Query i sees only keys up to i [default, if the operator has a causal form]")
                .hide(matches!(op.causal, Causality::Never | Causality::Neither)),
        )
        .arg(
            no_causal
                .help("Every query sees every key")
                .hide(matches!(op.causal, Causality::Always | Causality::Neither)),
        )
        .arg(layout(op))
        .args(packed(op))
        .arg(value("dtype").value_name("DTYPE").value_parser(["auto", "f32", "f16"]).default_value("auto").help(
            "Storage type; accumulation is always f32. auto: f16 if the input and the adapter have it, else f32",
        ));
    if op.recurrent {
        command = command
            .arg(
                value("segment")
                    .value_name("LENGTH")
                    .allow_negative_numbers(true)
                    .help("Length of a segment of the scan, in tokens [default: chosen by the plan, see `variant`]"),
            )
            .arg(on("decode", "Process one token in one dispatch over the state; needs N = 1 and a state file"));
    }
    command
        .arg(backend())
        .arg(adapter())
        .arg(force_adapter())
        .arg(tier())
        .arg(seed("Seed for drawing parameters that the files lack"))
        .arg(on(
            "verify",
            "Also run the CPU reference and print the error of each output; exit code 3 if one is too large",
        ))
        .arg(on("strict", "Refuse NaN and infinity, in the inputs and in the outputs"))
        .arg(json())
        .arg(on("quiet", "Print only errors and --json"))
        .disable_help_flag(true)
        .arg(Arg::new("help").short('h').long("help").action(ArgAction::Help).help("Print help"))
}

/// Adds the options of an operator to a command.
pub(super) fn own(mut command: Command, op: &'static Op) -> Command {
    for flag in op.flags {
        let arg = match flag.kind {
            FlagKind::Choice(words) => {
                value(flag.name).value_name("WORD").value_parser(PossibleValuesParser::new(words))
            }
            FlagKind::Number => value(flag.name).value_name("X").allow_negative_numbers(true),
            FlagKind::Count => value(flag.name).value_name("COUNT").allow_negative_numbers(true),
            FlagKind::Text(form) => value(flag.name).value_name(form),
            FlagKind::Switch => {
                let [on, off] = switch(flag.name);
                command = command.arg(on.help(flag.help)).arg(off.help(format!("Turn --{} off", flag.name)));
                continue;
            }
        };
        command = command.arg(arg.help(flag.help));
    }
    command
}

/// An option with a value, named as its id.
pub(super) fn value(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::Set)
}

/// An option without a value.
pub(super) fn on(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// An option with a file.
pub(super) fn path(name: &'static str) -> Arg {
    value(name).value_name("FILE").value_parser(value_parser!(PathBuf))
}

/// A required file by position.
pub(super) fn file(name: &'static str) -> Arg {
    Arg::new(name).value_name(name).value_parser(value_parser!(PathBuf)).required(true)
}

/// `--name` and `--no-name`; the last one given counts.
fn switch(name: &'static str) -> [Arg; 2] {
    // clap wants names that live as long as the process. The opposite's name is made once, here.
    let no: &'static str = Box::leak(negative(name).into_boxed_str());
    let flag = |id: &'static str| Arg::new(id).long(id).action(ArgAction::SetTrue).overrides_with_all([name, no]);
    [flag(name), flag(no)]
}

/// The opposite of a switch.
pub(super) fn negative(name: &str) -> String {
    format!("no-{name}")
}

/// `--layout` of an operator.
pub(super) fn layout(op: &Op) -> Arg {
    let what = if op.layouts()[1] == Layout::Bnhd.name() { "heads" } else { "channels" };
    let [behind, before] = op.layouts();
    layout_words([behind, before], format!("Axis order of sequence tensors; {before} has the length before the {what}"))
}

/// `--layout` for operators of both kinds.
pub(super) fn layout_of_any() -> Arg {
    let help = "Axis order of sequence tensors; bnhd and bnc have the length before the heads or channels";
    layout_words(["bhnd", "bnhd", "bcn", "bnc"], help.into())
}

fn layout_words<const K: usize>(words: [&'static str; K], help: String) -> Arg {
    value("layout").value_name("LAYOUT").value_parser(words).default_value(words[0]).help(help)
}

/// `--heads` and `--kv-heads`, of operators whose tensors can have the heads in their last axis.
fn packed(op: &Op) -> Vec<Arg> {
    let all = [
        ("H", "heads", "Query heads H in packed tensors: q is [B, N, H*D], k [B, M, G*D], the output [B, N, H*E]"),
        ("G", "kv-heads", "Key/value heads G in packed tensors [default: that of --heads]"),
    ];
    let own = all.into_iter().filter(|(letter, ..)| Packed::possible(op, letter));
    own.map(|(_, name, help)| value(name).value_name("COUNT").allow_negative_numbers(true).help(help)).collect()
}

/// `--backend`.
pub(super) fn backend() -> Arg {
    value("backend")
        .value_name("BACKEND")
        .value_parser(BACKENDS)
        .help("Graphics API to use, or cpu; auto: a hardware adapter, else cpu [default: WGPU_BACKEND, else auto]")
}

/// `--adapter`.
pub(super) fn adapter() -> Arg {
    value("adapter")
        .value_name("INDEX|NAME")
        .help("Adapter by its index in `subquad adapters` or a part of its name [default: WGPU_ADAPTER_NAME]")
}

/// `--adapter`, for commands that accept several.
pub(super) fn adapters() -> Arg {
    adapter()
        .value_name("INDEX|NAME|cpu|all")
        .action(ArgAction::Append)
        .help("Adapter by index or a part of its name, the cpu backend, or all; can be repeated")
}

/// `--force-adapter`.
pub(super) fn force_adapter() -> Arg {
    on("force-adapter", "Use the adapter even if it is known to compute wrong results, with a warning")
}

/// `--tier`.
pub(super) fn tier() -> Arg {
    value("tier").value_name("TIER").value_parser(["auto", "portable"]).help(
        "Kernels to choose from; portable: those of any WebGPU device, without subgroups, matrix units or more than 16 KiB \
         of workgroup memory [default: auto, all that the adapter has]",
    )
}

/// `--seed`.
pub(super) fn seed(help: &'static str) -> Arg {
    value("seed").value_name("N").allow_negative_numbers(true).default_value("0").help(help)
}

/// `--state-any`.
pub(super) fn state_any() -> Arg {
    on("state-any", "Take the state even if its file says that other settings or weights made it")
}

/// `--json`.
pub(super) fn json() -> Arg {
    on("json", "Print one JSON object on standard output")
}

/// The path given by that option; none if this command does not have the option.
pub(super) fn path_of<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a Path> {
    matches.try_get_one::<PathBuf>(name).ok().flatten().map(PathBuf::as_path)
}

/// The path of a required option.
pub(super) fn required<'a>(matches: &'a ArgMatches, name: &str) -> Result<&'a Path, Error> {
    path_of(matches, name).ok_or_else(|| Error::Usage(format!("{name} is missing")))
}

/// The word given by that option; none if this command does not have the option.
pub(super) fn word_of<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.try_get_one::<String>(name).ok().flatten().map(String::as_str)
}

/// Whether that option is given.
pub(super) fn is_on(matches: &ArgMatches, name: &str) -> bool {
    matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false)
}

/// The value of `--layout`, if it is given.
pub(super) fn layout_of(matches: &ArgMatches) -> Option<Layout> {
    if matches.value_source("layout") != Some(ValueSource::CommandLine) {
        return None;
    }
    Some(if matches!(word_of(matches, "layout"), Some("bnhd" | "bnc")) { Layout::Bnhd } else { Layout::Bhnd })
}

/// The value of `--seed`.
///
/// # Errors
/// [`Error::Usage`] if it is not a whole number.
pub(super) fn seed_of(of: &str, matches: &ArgMatches) -> Result<u64, Error> {
    let Some(word) = word_of(matches, "seed") else { return Ok(0) };
    let refuse = |_| Error::Usage(format!("{of}: --seed: expected a whole number from 0 to 2^64 - 1, found `{word}`"));
    word.parse().map_err(refuse)
}

/// The meaning of axis letters. Letters that only one operator has are explained in its documentation.
const LETTERS: &[(&str, &str)] = &[
    ("B", "batch"),
    ("H", "query heads"),
    ("G", "key/value heads (H is a multiple of G)"),
    ("N", "query length"),
    ("M", "key length"),
    ("D", "key dim"),
    ("E", "value dim"),
    ("S", "state size"),
    ("V", "value heads; a multiple of H and G where these are equal"),
    ("seqs", "packed sequences"),
    ("C", "channels"),
    ("cq", "query rows of a kernel; the last one is the query itself"),
    ("ck", "keys of a kernel, an odd number; the middle one is the key itself"),
    ("c", "heads per group of heads that are mixed"),
];

/// The same for operators without heads.
const CHANNEL_LETTERS: &[(&str, &str)] = &[
    ("B", "batch"),
    ("C", "channels"),
    ("N", "length"),
    ("G", "groups of channels that share b and c (you may omit the axis if there is one group)"),
    ("S", "states per channel"),
    ("W", "width: taps per channel"),
];

/// The same for parts of operators.
const PART_LETTERS: &[(&str, &str)] = &[
    ("B", "batch"),
    ("H", "heads"),
    ("N", "length"),
    ("U*P", "digits times choices per digit"),
    ("K", "indices per token"),
    ("S", "rows of a table"),
    ("C", "codes"),
    ("E", "dim"),
    ("G", "key heads"),
    ("D", "dim"),
    ("V", "rows of the table"),
    ("L", "positions"),
];

/// The same for products of matrices.
const MATRIX_LETTERS: &[(&str, &str)] =
    &[("N", "rows of x"), ("K", "columns of x and of the weight"), ("M", "rows of the weight, columns of o")];

/// The tensors and axes of an operator, as text behind its help.
fn manual(op: &Op) -> String {
    let mut text = String::new();
    let mut list = |title: &str, specs: &[TensorSpec]| {
        if specs.is_empty() {
            return;
        }
        let _ = writeln!(text, "{title}:");
        for spec in specs {
            let note = match (spec.role, spec.alternative) {
                (Role::State, _) if spec.name == "position" => "  i64".into(),
                (Role::State | Role::Cache, _) => String::new(),
                (_, Some(other)) => format!("  or {other}"),
                _ if spec.optional => "  optional".into(),
                _ => String::new(),
            };
            let _ = writeln!(text, "  {:<8} {}{note}", spec.name, spec.forms(Layout::Bhnd));
        }
    };
    list("Reads", op.inputs);
    list("Writes", op.outputs);
    list("State, f32 (--state-in, --state-out)", op.state);
    text.push_str("Axes:\n");
    let has = |axis: &str| op.axes.iter().any(|(known, _)| *known == axis);
    let heads = has("H");
    let letters = match (PARTS.iter().any(|part| part.name == op.name), heads) {
        (true, true) => PART_LETTERS,
        (true, false) => MATRIX_LETTERS,
        (false, true) => LETTERS,
        (false, false) => CHANNEL_LETTERS,
    };
    for (letter, meaning) in letters {
        if op.axes.iter().any(|(known, _)| known == letter) {
            let _ = writeln!(text, "  {letter}  {meaning}");
        }
    }
    let name = op.name;
    let length_is_last = op.inputs.first().is_some_and(|spec| spec.axes.ends_with(" N"));
    text.push_str(if !has("B") {
        "Every tensor has all its axes. --layout has no effect: the order of the axes is fixed.\n\
         The `input` lines of a run show how each shape was read.\n"
    } else if !length_is_last {
        "You may omit the batch axis, or the batch and head axes, as long as you omit them from every\n\
         sequence tensor; the outputs then lack them too. --layout bnhd has the length before the heads.\n\
         The `input` lines of a run show how each shape was read.\n"
    } else {
        "You may omit the batch axis, as long as you omit it from every sequence tensor; the outputs\n\
         then lack it too. --layout has no effect: the length is last.\n\
         The `input` lines of a run show how each shape was read.\n"
    });
    let _ = write!(
        text,
        "`time` is that of a first run. On a GPU it includes the copy of the inputs and all kernels, but not the\n\
         creation of pipelines and reading the outputs back; on the cpu backend it is the computation alone.\n\
         Reading and writing files is never included. `subquad bench` measures kernels alone.\n\
         Cost: O({}).\n\n\
         Example:\n  subquad sample {name} --output in.safetensors\n  \
         subquad run {name} --input in.safetensors --output out.safetensors --verify\n\n{CODES}",
        op.complexity
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_makes_a_grammar_without_contradictions() {
        command().debug_assert();
    }

    #[test]
    fn the_later_of_two_switches_counts() {
        for (words, causal, no_causal) in [
            (&["--causal", "--no-causal"][..], false, true),
            (&["--no-causal", "--causal"], true, false),
            (&["--causal", "--causal"], true, false),
            (&[], false, false),
        ] {
            let start = ["subquad", "run", OPS[0].name, "--input", "x"];
            let words = start.iter().chain(words);
            let matches = command().try_get_matches_from(words).unwrap();
            let (_, matches) = operator(matches.subcommand_matches("run").unwrap()).unwrap();
            assert_eq!((is_on(matches, "causal"), is_on(matches, "no-causal")), (causal, no_causal));
        }
    }
}
