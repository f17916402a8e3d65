//! The options of `subquad run`, checked as far as the command line alone allows: every [`Error::Usage`] of a run arises
//! here, before a file is opened.

use std::path::{Path, PathBuf};

use clap::ArgMatches;

use super::args;
use super::names::Names;
use super::report;
use super::target::TargetArgs;
use crate::catalog::attention::{ALIGN, LSE};
use crate::catalog::flags::{FlagKind, Flags};
use crate::catalog::packed::Packed;
use crate::catalog::spec::{Causality, Op};
use crate::error::Error;
use crate::io::{self, is_dash};
use crate::tensor::{DType, Layout};

/// The options of `subquad run OP`.
#[derive(Debug)]
pub(super) struct Options {
    /// Flags that the operator reads: its own, `causal`, `segment`, `decode`.
    pub flags: Flags,
    pub input: PathBuf,
    pub params: Option<PathBuf>,
    pub state_in: Option<PathBuf>,
    pub output: Option<PathBuf>,
    pub state_out: Option<PathBuf>,
    /// Where a summary of the piece goes.
    pub summary_out: Option<PathBuf>,
    /// Where the logarithms of the sums go.
    pub lse_out: Option<PathBuf>,
    /// Whether a state is taken whatever made it.
    pub state_any: bool,
    pub save_params: Option<PathBuf>,
    /// Names of the operator's tensors in the files.
    pub names: Names,
    pub layout: Layout,
    /// Whether nobody asked for the layout.
    pub layout_is_assumed: bool,
    /// Heads in the last axis of sequence tensors.
    pub packed: Option<Packed>,
    /// Storage type asked for; `None`: auto.
    pub dtype: Option<DType>,
    pub target: TargetArgs,
    pub seed: u64,
    pub verify: bool,
    pub json: bool,
    pub quiet: bool,
    pub strict: bool,
}

impl Options {
    /// Reads the arguments of `run OP`.
    pub(super) fn parse(op: &Op, matches: &ArgMatches) -> Result<Self, Error> {
        let path = |name| args::path_of(matches, name).map(Path::to_path_buf);
        let mut flags = flags(op, matches);
        let lse_out = path("lse-out");
        if lse_out.is_some() {
            flags.set(LSE.name, "true");
        }
        let packed = packed(op, &flags)?;
        let layout = args::layout_of(matches);
        if packed.is_some() && layout == Some(Layout::Bhnd) {
            let text = "--layout bhnd cannot be used with --heads, which says that tensors are [B, N, H*D]";
            return Err(Error::Usage(format!("{}: {text}", op.name)));
        }
        let options = Self {
            flags,
            input: args::required(matches, "input")?.to_path_buf(),
            params: path("params"),
            state_in: path("state-in"),
            output: path("output"),
            state_out: path("state-out"),
            summary_out: path("summary-out"),
            lse_out,
            state_any: args::is_on(matches, "state-any"),
            save_params: path("save-params"),
            names: Names::parse(op, matches)?,
            layout: if packed.is_some() { Layout::Bnhd } else { layout.unwrap_or_default() },
            layout_is_assumed: packed.is_none() && layout.is_none(),
            packed,
            dtype: match args::word_of(matches, "dtype") {
                Some("f32") => Some(DType::F32),
                Some("f16") => Some(DType::F16),
                _ => None,
            },
            target: TargetArgs::of(matches)?,
            seed: args::seed_of(op.name, matches)?,
            verify: args::is_on(matches, "verify"),
            json: args::is_on(matches, "json"),
            quiet: args::is_on(matches, "quiet"),
            strict: args::is_on(matches, "strict"),
        };
        options.check_flags(op)?;
        options.check_files(op)?;
        Ok(options)
    }

    /// Whether the run needs or makes a state for a file.
    pub(super) fn carry(&self) -> bool {
        self.state_in.is_some() || self.state_out.is_some() || self.summary_out.is_some()
    }

    fn check_flags(&self, op: &Op) -> Result<(), Error> {
        let name = op.name;
        let refuse = |text: &str| Err(Error::Usage(format!("{name}: {text}")));
        match (op.causal, self.flags.switch("causal")) {
            (Causality::Never, Some(true)) => return refuse("--causal: this operator has no causal form"),
            (Causality::Neither, Some(_)) => {
                return refuse("--causal and --no-causal cannot be used: its tokens do not see each other");
            }
            (Causality::Always, Some(false)) => return refuse("--no-causal: this operator has only a causal form"),
            (_, Some(false)) if self.summary_out.is_some() => {
                return refuse("--no-causal cannot be used with --summary-out");
            }
            (_, Some(false)) if self.carry() => {
                return refuse("--no-causal cannot be used with --state-in or --state-out");
            }
            (_, Some(false)) if self.flags.switch("decode") == Some(true) => {
                return refuse("--decode cannot be used with --no-causal");
            }
            _ => {}
        }
        if let Some(word) = self.flags.word("direction").filter(|word| *word != "forward" && self.carry()) {
            return refuse(&format!("--direction {word} cannot be used with --state-in or --state-out"));
        }
        if self.flags.word("padding") == Some("same") && self.carry() {
            return refuse(
                "--padding same cannot be used with --state-in or --state-out, because outputs depend on later inputs",
            );
        }
        if self.flags.word(ALIGN.name) == Some("start") && self.carry() {
            return refuse(
                "--align start cannot be used with --state-in or --state-out, whose keys come before the queries",
            );
        }
        if self.flags.switch("decode") == Some(true) && !self.carry() {
            return refuse("--decode needs --state-in or --state-out");
        }
        self.flags.count(name, "segment")?;
        for flag in op.flags {
            match flag.kind {
                FlagKind::Number => drop(self.flags.number(name, flag.name)?),
                FlagKind::Count => drop(self.flags.count(name, flag.name)?),
                FlagKind::Choice(_) | FlagKind::Switch | FlagKind::Text(_) => {}
            }
        }
        if self.summary_out.is_some() { op.usage_with_summary(&self.flags) } else { op.usage(&self.flags) }
    }

    fn check_files(&self, op: &Op) -> Result<(), Error> {
        let inputs = named([
            ("input", Some(&self.input)),
            ("params", self.params.as_ref()),
            ("state-in", self.state_in.as_ref()),
        ]);
        let outputs = named([
            ("output", self.output.as_ref()),
            ("state-out", self.state_out.as_ref()),
            ("summary-out", self.summary_out.as_ref()),
            ("lse-out", self.lse_out.as_ref()),
            ("save-params", self.save_params.as_ref()),
        ]);
        check_files(op.name, self.json, &inputs, &outputs)
    }
}

/// Refuses paths that contradict each other, and outputs that cannot be written. Each path has the name of its flag, or that of
/// a positional argument in capitals. `name` is that of the command or the operator.
pub(super) fn check_files(
    name: &str,
    json: bool,
    inputs: &[(&'static str, &Path)],
    outputs: &[(&'static str, &Path)],
) -> Result<(), Error> {
    let spelled = |flag: &str| if flag.chars().all(char::is_uppercase) { flag.to_owned() } else { format!("--{flag}") };
    for (paths, stream) in [(inputs, "input"), (outputs, "output")] {
        if paths.iter().filter(|(_, path)| is_dash(path)).count() > 1 {
            return Err(Error::Usage(format!("{name}: only one file can be `-`, standard {stream}")));
        }
    }
    if let Some((flag, _)) = outputs.iter().find(|(_, path)| json && is_dash(path)) {
        let text = format!("--json and `--{flag} -` cannot both write to standard output");
        return Err(Error::Usage(format!("{name}: {text}")));
    }
    for (at, (flag, path)) in outputs.iter().enumerate() {
        let before = outputs.iter().take(at);
        if let Some((other, _)) = inputs.iter().chain(before).find(|(_, other)| io::same_file(other, path)) {
            let text = format!("--{flag} and {} cannot be the same file, {}", spelled(other), report::path(path));
            return Err(Error::Usage(format!("{name}: {text}")));
        }
    }
    for (flag, _) in outputs.iter().filter(|(_, path)| is_dash(path)) {
        report::check_stream(name, flag)?;
    }
    outputs.iter().try_for_each(|(_, path)| io::write_check(path))
}

/// The paths that are given, with the names of their flags.
fn named<'a, const K: usize>(paths: [(&'static str, Option<&'a PathBuf>); K]) -> Vec<(&'static str, &'a Path)> {
    paths.into_iter().filter_map(|(flag, path)| Some((flag, path?.as_path()))).collect()
}

/// The operator's own flags.
pub(super) fn own_flags(op: &Op, matches: &ArgMatches) -> Flags {
    let mut flags = Flags::new();
    for flag in op.flags {
        match flag.kind {
            FlagKind::Switch => set_switch(&mut flags, matches, flag.name),
            FlagKind::Choice(_) | FlagKind::Number | FlagKind::Count | FlagKind::Text(_) => {
                set_word(&mut flags, matches, flag.name);
            }
        }
    }
    flags
}

fn flags(op: &Op, matches: &ArgMatches) -> Flags {
    let mut flags = own_flags(op, matches);
    set_switch(&mut flags, matches, "causal");
    ["segment", "heads", "kv-heads"].into_iter().for_each(|name| set_word(&mut flags, matches, name));
    if args::is_on(matches, "decode") {
        flags.set("decode", "true");
    }
    flags
}

/// The packed form that `--heads` and `--kv-heads` ask for.
fn packed(op: &Op, flags: &Flags) -> Result<Option<Packed>, Error> {
    let [heads, kv_heads] = ["heads", "kv-heads"].map(|name| flags.count(op.name, name));
    let refuse = |text: String| Err(Error::Usage(format!("{}: {text}", op.name)));
    match (heads?, kv_heads?) {
        (None, None) => Ok(None),
        (None, Some(_)) => refuse("--kv-heads needs --heads".into()),
        (Some(heads), Some(kv_heads)) if !heads.is_multiple_of(kv_heads) => {
            refuse(format!("--heads: expected a multiple of --kv-heads {kv_heads}, found {heads}"))
        }
        (Some(heads), kv_heads) => Ok(Some(Packed { heads, kv_heads: kv_heads.unwrap_or(heads) })),
    }
}

fn set_word(flags: &mut Flags, matches: &ArgMatches, name: &str) {
    if let Some(word) = args::word_of(matches, name) {
        flags.set(name, word);
    }
}

fn set_switch(flags: &mut Flags, matches: &ArgMatches, name: &str) {
    if args::is_on(matches, name) {
        flags.set(name, "true");
    } else if args::is_on(matches, &args::negative(name)) {
        flags.set(name, "false");
    }
}

/// Flags as one would type them, without files and adapters, for metadata.
pub(super) fn as_typed(op: &Op, flags: &Flags) -> String {
    let is_switch = |name: &str| {
        matches!(name, "causal" | "decode")
            || op.flags.iter().any(|flag| flag.name == name && matches!(flag.kind, FlagKind::Switch))
    };
    // What a file of its own asks for is none of the flags.
    let words =
        flags.iter().filter(|(name, _)| *name != LSE.name).map(|(name, value)| match (is_switch(name), value) {
            (true, "true") => format!("--{name}"),
            (true, _) => format!("--{}", args::negative(name)),
            (false, value) => format!("--{name} {value}"),
        });
    words.collect::<Vec<_>>().join(" ")
}
