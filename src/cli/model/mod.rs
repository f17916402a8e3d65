//! `subquad model`: whole models from weights.

mod bench;
mod generate;
mod inspect;
mod run;
mod score;

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::Outcome;
use super::args;
use super::options;
use super::report::Ui;
use super::target::{Target, TargetArgs};
use crate::cpu::memory;
use crate::error::Error;
use crate::io::{self, is_dash};
use crate::model::tokens::Tokenizer;
use crate::model::{Model, Session};
use crate::tensor::{DType, Values};

/// Tokens of a chunk if none is asked for: enough for products to be fast, and few enough for little memory.
const CHUNK: usize = 512;

const ABOUT: &str = "DIR is a folder as published: config.json, *.safetensors, and tokenizer.json where there is one.
Families: mamba, mamba2, bamba, granitemoehybrid (dense), qwen3_next (dense), subquad (our own form; docs/models.md)

Examples:
  subquad model generate examples/models/hybrid --prompt \"In the beginning\" --tokens 200
  subquad model score examples/models/hybrid --input book.txt
  subquad model run DIR --input tokens.safetensors --output logits.safetensors";

/// `subquad model`.
pub(super) fn command() -> Command {
    Command::new("model")
        .about("Run, score, generate with, inspect or time a whole model from its weights")
        .after_help(ABOUT)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(run::command())
        .subcommand(score::command())
        .subcommand(generate::command())
        .subcommand(inspect::command())
        .subcommand(bench::command())
}

/// Runs the subcommand.
pub(super) fn model(matches: &ArgMatches) -> Result<Outcome, Error> {
    memory::keep_freed();
    match matches.subcommand() {
        Some(("run", matches)) => run::run(matches),
        Some(("score", matches)) => score::score(matches),
        Some(("generate", matches)) => generate::generate(matches),
        Some(("inspect", matches)) => inspect::inspect(matches),
        Some(("bench", matches)) => bench::bench(matches),
        _ => Err(Error::Usage("model: expected run, score, generate, inspect or bench".into())),
    }
}

/// A subcommand with the folder and the options that all have.
fn subcommand(name: &'static str, about: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .arg(
            Arg::new("DIR")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .required(true)
                .help("Folder of the model"),
        )
        .arg(args::json())
        .arg(args::on("quiet", "Print only errors and the result"))
}

/// Adds the options that say where and how a model runs.
fn running(command: Command) -> Command {
    command.arg(args::backend()).arg(args::adapter()).arg(args::force_adapter()).arg(args::tier()).arg(
        args::value("dtype")
            .value_name("DTYPE")
            .value_parser(["auto", "f32", "f16"])
            .default_value("auto")
            .help("Storage type of activations and of weights of products; auto: f32, and weights as in the files"),
    )
}

/// The option `--chunk`.
fn chunk() -> Arg {
    args::value("chunk").value_name("N").allow_negative_numbers(true).help(
        "Tokens that are processed together, which bounds the memory [default: 512, and all tokens for a model without a state]",
    )
}

/// A whole number of 1 or more that an option gives.
fn count(matches: &ArgMatches, name: &str) -> Result<Option<usize>, Error> {
    let Some(word) = args::word_of(matches, name) else { return Ok(None) };
    match word.parse::<usize>() {
        Ok(count) if count > 0 => Ok(Some(count)),
        _ => Err(Error::Usage(format!("model: --{name}: expected a whole number of 1 or more, found `{word}`"))),
    }
}

/// A finite number that an option gives.
fn number(matches: &ArgMatches, name: &str) -> Result<Option<f32>, Error> {
    let Some(word) = args::word_of(matches, name) else { return Ok(None) };
    match word.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(Some(number)),
        _ => Err(Error::Usage(format!("model: --{name}: expected a finite number, found `{word}`"))),
    }
}

/// The folder of the model, opened.
fn open(matches: &ArgMatches) -> Result<Model, Error> {
    Model::open(args::required(matches, "DIR")?)
}

/// What runs a model.
struct Runner {
    target: Target,
    dtype: DType,
}

impl Runner {
    /// Opens the adapter or backend that was asked for.
    fn open(matches: &ArgMatches, ui: &mut Ui) -> Result<Self, Error> {
        let target = Target::open(&TargetArgs::of(matches)?, false, ui)?;
        let dtype = if args::word_of(matches, "dtype") == Some("f16") { DType::F16 } else { DType::F32 };
        if dtype == DType::F16 && !target.f16() {
            return Err(Error::NoAdapter(format!("--dtype f16: {target} stores no f16")));
        }
        Ok(Self { target, dtype })
    }

    /// A session of a model.
    fn session<'m>(&self, model: &'m Model) -> Result<Session<'m>, Error> {
        let session = match self.target.context() {
            None => Session::on_cpu(model)?,
            Some(context) => Session::on_gpu(model, context)?,
        };
        Ok(session.dtype(self.dtype))
    }
}

/// The tokens of a run, and the bytes of their text if they were one.
struct Input {
    tokens: Vec<u32>,
    bytes: Option<usize>,
}

/// Reads the tokens that `--input` or `--text` give: of a safetensors file its tensor `tokens`, of any other the bytes or what
/// the tokenizer makes of them.
fn input(matches: &ArgMatches, model: &Model) -> Result<Input, Error> {
    let path = match (args::path_of(matches, "input"), args::word_of(matches, "text")) {
        (Some(_), Some(_)) => return Err(Error::Usage("model: --input and --text cannot be used together".into())),
        (None, Some(text)) => return encoded(model, text.as_bytes(), "--text"),
        (None, None) => return Err(Error::Usage("model: --input or --text is needed".into())),
        (Some(path), None) => path,
    };
    if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("safetensors")) {
        let file = io::read_only(path, &|name| name == "tokens")?;
        let wrong = |message: String| Error::file(path.to_path_buf(), message);
        let Some(tensor) = file.tensors.get("tokens") else {
            return Err(wrong("tensor `tokens`: expected whole numbers, found none".into()));
        };
        let Values::I64(values) = tensor.values() else {
            return Err(wrong(format!("tensor `tokens`: expected i32 or i64, found {}", tensor.dtype())));
        };
        let tokens = values.iter().map(|token| u32::try_from(*token)).collect::<Result<Vec<_>, _>>();
        let tokens =
            tokens.map_err(|_| wrong("tensor `tokens`: expected numbers of 0 or more, found a negative one".into()))?;
        return Ok(Input { tokens, bytes: None });
    }
    let bytes = if is_dash(path) {
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes);
        read.map_err(|e| Error::file("standard input", format!("cannot be read: {e}")))?;
        bytes
    } else {
        std::fs::read(path).map_err(|e| Error::file(path.to_path_buf(), format!("cannot be read: {e}")))?
    };
    encoded(model, &bytes, &path.display().to_string())
}

fn encoded(model: &Model, bytes: &[u8], from: &str) -> Result<Input, Error> {
    if bytes.is_empty() {
        return Err(Error::file(from.to_owned(), "expected a text of one byte or more, found none".to_owned()));
    }
    Ok(Input { tokens: Tokenizer::of(model)?.encode(bytes)?, bytes: Some(bytes.len()) })
}

/// Refuses outputs that would overwrite an input or each other.
fn check_files(inputs: &[&'static str], outputs: &[&'static str], matches: &ArgMatches) -> Result<(), Error> {
    let given = |names: &[&'static str]| -> Vec<_> {
        names.iter().filter_map(|name| Some((*name, args::path_of(matches, name)?))).collect()
    };
    options::check_files("model", args::is_on(matches, "json"), &given(inputs), &given(outputs))
}

/// Tokens of a chunk; refuses `--chunk` for a model that has no state between chunks.
fn chunk_of(matches: &ArgMatches, model: &Model) -> Result<Option<usize>, Error> {
    let asked = count(matches, "chunk")?;
    if model.is_recurrent() {
        return Ok(Some(asked.unwrap_or(CHUNK)));
    }
    match asked {
        None => Ok(None),
        Some(_) => Err(Error::Usage(
            "model: --chunk cannot be used: a mixer of this model has no state that goes from chunk to chunk".into(),
        )),
    }
}
