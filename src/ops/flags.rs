//! Flags of operators: what a row declares and what a user gave. No argument parser here: the command line fills it.

use std::collections::BTreeMap;

use crate::error::Error;

/// A flag an operator has beside the common ones.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Name without dashes: `feature-map`.
    pub name: &'static str,
    /// What value it takes.
    pub kind: FlagKind,
    /// One line for `--help`, with the default.
    pub help: &'static str,
}

/// What value a [`Flag`] takes.
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
    /// Words that the operator itself reads, described so: `none|all|H,H,...`.
    Text(&'static str),
}

/// Flags given by a user, by name without dashes. Switches are `true` and `false`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flags(BTreeMap<String, String>);

impl Flags {
    /// No flags.
    pub fn new() -> Self {
        Self::default()
    }

    /// From pairs of name and value.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    /// Sets a flag.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// The word given.
    pub fn word(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The number given; [`Error::Usage`] if it is none or not finite.
    pub fn number(&self, op: &str, name: &str) -> Result<Option<f32>, Error> {
        self.parse(op, name, "a finite number", |v: &f32| v.is_finite())
    }

    /// The whole number given; [`Error::Usage`] if it is none or 0.
    pub fn count(&self, op: &str, name: &str) -> Result<Option<usize>, Error> {
        self.parse(op, name, "a whole number from 1 to 2^64 - 1", |v: &usize| *v > 0)
    }

    /// The switch given.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.word(name).map(|v| v == "true")
    }

    /// Names and values, by name.
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
