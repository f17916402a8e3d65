//! Flags of operators: their declarations and the values that a user gave. This module does not parse arguments; the
//! command line fills [`Flags`].

use std::collections::BTreeMap;

use crate::error::Error;

/// A flag that an operator has in addition to the common ones.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Name without dashes: `feature-map`.
    pub name: &'static str,
    /// The kind of its value.
    pub kind: FlagKind,
    /// One line for `--help`, with the default.
    pub help: &'static str,
}

/// The kind of value that a [`Flag`] takes.
#[derive(Debug, Clone, Copy)]
pub enum FlagKind {
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A finite number.
    Number,
    /// A whole number, 1 or more.
    Count,
    /// `--name` or `--no-name`.
    Switch,
    /// Text that the operator parses, with a description of its form: `none|all|H,H,...`.
    Text(&'static str),
}

/// Flags that a user gave, by name without dashes. A switch has the value `true` or `false`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flags(BTreeMap<String, String>);

impl Flags {
    /// No flags.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates flags from pairs of name and value.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    /// Sets a flag.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// The value as text, if the flag was given.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value as a number, if the flag was given; [`Error::Usage`] if it is not a finite number.
    pub fn number(&self, op: &str, name: &str) -> Result<Option<f32>, Error> {
        self.parse(op, name, "a finite number", |v: &f32| v.is_finite())
    }

    /// The value as a whole number, if the flag was given; [`Error::Usage`] if it is not a whole number of 1 or more.
    pub fn count(&self, op: &str, name: &str) -> Result<Option<usize>, Error> {
        self.parse(op, name, "a whole number from 1 to 2^64 - 1", |v: &usize| *v > 0)
    }

    /// The value of a switch, if it was given.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.word(name).map(|v| v == "true")
    }

    /// The flag as the user typed it, `--norm-eps` or `--no-causal`; `None` if no flag set this setting.
    pub fn spelled(&self, setting: &str) -> Option<String> {
        let name = setting.replace('_', "-");
        let no = if self.word(&name)? == "false" { "no-" } else { "" };
        Some(format!("--{no}{name}"))
    }

    /// An error about a setting, under the name of the flag if a flag gave the setting.
    pub fn spell(&self, error: Error) -> Error {
        match error {
            Error::Setting { op, setting, problem } => {
                Error::Setting { op, setting: self.spelled(&setting).unwrap_or(setting), problem }
            }
            other => other,
        }
    }

    /// Names and values, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    fn parse<T: std::str::FromStr>(
        &self,
        op: &str,
        name: &str,
        expected: &str,
        fits: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, Error> {
        let Some(word) = self.word(name) else { return Ok(None) };
        match word.parse::<T>() {
            Ok(value) if fits(&value) => Ok(Some(value)),
            _ => Err(Error::Usage(format!("{op}: --{name}: expected {expected}, found `{word}`"))),
        }
    }
}
