//! `--map` and `--prefix`: the names that the operator's tensors have in the files.

use clap::{Arg, ArgAction, ArgMatches};

use super::args;
use crate::catalog::spec::{Op, TensorSpec};
use crate::error::Error;

/// The names of the operator's tensors in the files.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Pairs of names: the operator's name of a tensor, and its name in the files.
    map: Vec<(&'static str, String)>,
    prefix: String,
}

/// `--map` and `--prefix`.
pub(super) fn args() -> [Arg; 2] {
    [
        args::value("map")
            .value_name("NAME=TENSOR")
            .action(ArgAction::Append)
            .help("Read the tensor NAME of the operator from TENSOR of --input or --params; can be repeated"),
        args::value("prefix")
            .value_name("PREFIX")
            .help("What the names of tensors in --input and --params begin with; TENSOR of --map is taken as written"),
    ]
}

impl Names {
    /// Reads the arguments.
    ///
    /// # Errors
    /// [`Error::Usage`] if the map is wrong whatever the files hold.
    pub(super) fn parse(op: &Op, matches: &ArgMatches) -> Result<Self, Error> {
        let refuse = |text: String| Error::Usage(format!("{}: --map: {text}", op.name));
        let mut map: Vec<(&'static str, String)> = Vec::new();
        for word in matches.try_get_many::<String>("map").ok().flatten().into_iter().flatten() {
            let parts = word.split_once('=').filter(|(name, tensor)| !name.is_empty() && !tensor.is_empty());
            let Some((name, tensor)) = parts else {
                return Err(refuse(format!("expected NAME=TENSOR, found `{word}`")));
            };
            let Some(spec) = op.inputs.iter().find(|spec| spec.name == name) else {
                let own: Vec<_> = op.inputs.iter().map(|spec| spec.name).collect();
                return Err(refuse(format!(
                    "expected a tensor that {} reads ({}), found `{name}`",
                    op.name,
                    own.join(", ")
                )));
            };
            if map.iter().any(|(known, _)| *known == name) {
                return Err(refuse(format!("`{name}` is given twice")));
            }
            map.push((spec.name, tensor.to_owned()));
        }
        Ok(Self { map, prefix: args::word_of(matches, "prefix").unwrap_or("").to_owned() })
    }

    /// The name that this tensor has in the files.
    pub(super) fn of(&self, spec: &TensorSpec) -> String {
        let mapped = self.map.iter().find(|(name, _)| *name == spec.name);
        mapped.map_or_else(|| format!("{}{}", self.prefix, spec.name), |(_, tensor)| tensor.clone())
    }

    /// A name in the files without the prefix, if it has it.
    pub(super) fn bare<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.prefix.as_str())
    }

    /// The tensors that the map asks for.
    pub(super) fn mapped(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.map.iter().map(|(name, tensor)| (*name, tensor.as_str()))
    }
}
