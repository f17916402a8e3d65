//! `subquad merge`: the state after pieces of a sequence that ran side by side, from their summaries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::json;

use super::provenance::{self, Provenance};
use super::report::{self, Ui};
use super::{Outcome, args, finite, options};
use crate::catalog::domain::Domain;
use crate::catalog::spec::{Op, TensorSpec};
use crate::catalog::summaries::{DECAY, Fold, State, Summary};
use crate::cpu::memory;
use crate::error::Error;
use crate::io::{self, Opened, is_dash};
use crate::ops::OPS;
use crate::tensor::TensorMap;

/// Name of the positional argument.
const SUMMARY: &str = "SUMMARY";

/// Bytes of memory per element of a state: the tensors as read, two states in f64, and factors in f64.
const BYTES: u64 = 4 + 8 + 8 + 8 + 8;

/// `subquad merge`.
pub(super) fn command() -> Command {
    Command::new("merge")
        .about("Make the state after pieces of a sequence that ran side by side, from their summaries")
        .after_help(
            "A summary is what `subquad run --summary-out` writes. Give the summaries in the order of the pieces.\n\n\
             Example:\n  \
             subquad run linear -i first.npz --summary-out s0.npz\n  \
             subquad run linear -i second.npz --summary-out s1.npz\n  \
             subquad merge s0.npz s1.npz --state-out state.npz",
        )
        .arg(
            Arg::new(SUMMARY)
                .value_name(SUMMARY)
                .value_parser(value_parser!(PathBuf))
                .action(ArgAction::Append)
                .num_args(1..)
                .required(true)
                .help("Files with the summaries, in order; one can be `-`, standard input"),
        )
        .arg(args::path("state-in").help("File with the state in front of the first piece [default: an empty state]"))
        .arg(
            args::path("state-out")
                .required(true)
                .help("File to write the state after the last piece to; `-` is standard output"),
        )
        .arg(args::state_any())
        .arg(args::on("strict", "Refuse NaN and infinity, in the files and in the state"))
        .arg(args::json())
        .arg(args::on("quiet", "Print only errors and --json"))
}

/// What the summaries have in common, once the first was read.
struct Common {
    op: &'static Op,
    made: Provenance,
    fold: Box<dyn Fold>,
    /// Entries of the metadata on which all files agree.
    metadata: BTreeMap<String, String>,
}

/// Folds summaries into a state.
pub(super) fn merge(matches: &ArgMatches) -> Result<Outcome, Error> {
    let quiet = args::is_on(matches, "quiet");
    let strict = args::is_on(matches, "strict");
    let as_json = args::is_on(matches, "json");
    let mut ui = Ui::new(quiet);
    let files: Vec<&Path> = matches.get_many::<PathBuf>(SUMMARY).into_iter().flatten().map(PathBuf::as_path).collect();
    let state_in = args::path_of(matches, "state-in");
    let state_out = args::required(matches, "state-out")?;
    let inputs: Vec<_> =
        files.iter().map(|path| (SUMMARY, *path)).chain(state_in.map(|path| ("state-in", path))).collect();
    options::check_files("merge", as_json, &inputs, &[("state-out", state_out)])?;

    let (first, others) = files.split_first().ok_or_else(|| Error::Usage(format!("merge: {SUMMARY} is missing")))?;
    let opened = io::open(first)?;
    let mut common = Common::of(first, &opened)?;
    let (mut state, mut like) = (None, PathBuf::from(first));
    if let Some(path) = state_in {
        let opened = io::open(path)?;
        common.made.check(path, &opened.listing().metadata, args::is_on(matches, "state-any"), &mut ui)?;
        let tensors = common.load(path, opened, &[], strict, &mut ui)?;
        state = Some(located(path, State::read(common.fold.tensors(), &tensors, None))?);
        like = path.to_path_buf();
    }
    common.take(&mut state, first, opened, &like, strict, &mut ui)?;
    for path in others {
        let opened = io::open(path)?;
        common.agree(first, path, &opened)?;
        common.take(&mut state, path, opened, &like, strict, &mut ui)?;
    }

    let Common { op, made, mut metadata, .. } = common;
    let tensors = state.unwrap_or_default().to_tensors();
    for (name, tensor) in tensors.iter() {
        finite::check(op.name, name, (tensor, Domain::Finite), " in the state", strict, &mut ui)?;
    }
    metadata.insert("version".into(), concat!("subquad ", env!("CARGO_PKG_VERSION")).into());
    metadata.insert(provenance::KEY.into(), made.text());
    io::write(state_out, &tensors, &metadata)?;

    if as_json {
        let state = tensors.iter().map(|(name, tensor)| {
            json!({"name": name, "dtype": tensor.dtype().name(), "shape": tensor.shape().dims(),
                   "file": state_out.display().to_string()})
        });
        report::json(&json!({
            "schema": report::SCHEMA,
            "command": "merge",
            "version": env!("CARGO_PKG_VERSION"),
            "operator": op.name,
            "made": made.text(),
            "summaries": files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "state_in": state_in.map(|path| path.display().to_string()),
            "state": state.collect::<Vec<_>>(),
            "warnings": ui.warnings(),
        }))?;
    } else if !quiet {
        let text = text(op, files.len(), state_out, &tensors);
        if is_dash(state_out) { report::stderr_lines(&text) } else { report::stdout(&text)? }
    }
    Ok(Outcome::Done)
}

/// Lines of a key and a value, as `run` prints them.
fn text(op: &Op, summaries: usize, path: &Path, tensors: &TensorMap) -> String {
    let line = |key: &str, value: String| format!("{key:<10} {value}\n");
    let mut text = line("operator", op.name.to_owned()) + &line("summaries", summaries.to_string());
    for (name, tensor) in tensors.iter() {
        text += &line(name, format!("{} {} -> {}", tensor.dtype(), tensor.shape(), report::path(path)));
    }
    text
}

/// Adds the path to a sentence about a file.
fn located<T>(path: &Path, result: Result<T, String>) -> Result<T, Error> {
    result.map_err(|sentence| Error::file(path, sentence))
}

impl Common {
    /// What the first summary says that made it.
    fn of(path: &Path, opened: &Opened) -> Result<Self, Error> {
        let mut metadata = opened.listing().metadata.clone();
        let made = Provenance::of_summary(path, &metadata)?;
        let Some((op, folding)) =
            OPS.iter().find(|op| op.name == made.operator()).and_then(|op| Some((op, op.summaries?)))
        else {
            let names: Vec<_> = OPS.iter().filter(|op| op.summaries.is_some()).map(|op| op.name).collect();
            let text = format!("expected a summary of {}, found one of {}", names.join(", "), made.operator());
            return Err(Error::file(path, text));
        };
        let fold = located(path, folding(&made.settings()))?;
        metadata.remove(provenance::SUMMARY);
        Ok(Self { op, made, fold, metadata })
    }

    /// Refuses a summary that something else made than the first.
    fn agree(&mut self, first: &Path, path: &Path, opened: &Opened) -> Result<(), Error> {
        let metadata = &opened.listing().metadata;
        if let Some([own, other]) = self.made.differences(&Provenance::of_summary(path, metadata)?) {
            let first = report::path(first);
            let text = format!("expected a summary made with {own} as {first} was, found one made with {other}");
            return Err(Error::file(path, text));
        }
        self.metadata.retain(|key, value| metadata.get(key) == Some(value));
        Ok(())
    }

    /// Reads the tensors of a state and those named besides, and reports values that are not finite.
    fn load(
        &self,
        path: &Path,
        opened: Opened,
        besides: &[TensorSpec],
        strict: bool,
        ui: &mut Ui,
    ) -> Result<TensorMap, Error> {
        let specs = || self.fold.tensors().iter().chain(besides);
        let mut elements = 0u64;
        for spec in specs() {
            let head = opened.head(spec.name)?;
            elements = elements.saturating_add(head.map_or(0, |(_, shape)| shape.checked_count().unwrap_or(u64::MAX)));
        }
        memory::check_bytes("merge", &report::path(path), elements.saturating_mul(BYTES))?;
        let tensors = opened.load(&|name| specs().any(|spec| spec.name == name))?.tensors;
        for spec in specs() {
            if let Some(tensor) = tensors.get(spec.name) {
                let when = format!(" in {}", report::path(path));
                finite::check(self.op.name, spec.name, (tensor, spec.domain), &when, strict, ui)?;
            }
        }
        Ok(tensors)
    }

    /// Takes the state through the next piece. `like` is the file whose shapes the state has.
    fn take(
        &self,
        state: &mut Option<State>,
        path: &Path,
        opened: Opened,
        like: &Path,
        strict: bool,
        ui: &mut Ui,
    ) -> Result<(), Error> {
        let tensors = self.load(path, opened, &[DECAY], strict, ui)?;
        let like = report::path(like);
        let like = state.as_ref().map(|state| (state, &*like));
        let mut piece = located(path, Summary::read(self.fold.tensors(), &tensors, like))?;
        match state {
            // An empty state becomes that of the piece.
            None => *state = Some(piece.own),
            Some(state) => located(path, self.fold.fold(state, &mut piece))?,
        }
        Ok(())
    }
}
