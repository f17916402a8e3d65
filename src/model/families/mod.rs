//! The forms in which models are published. A family maps its configuration to a [`Spec`], and the names of our own form to those
//! of its tensors. Adding one is a file here and a row in [`FAMILIES`].

mod bamba;
mod granite;
mod mamba;
mod mamba2;
mod parts;
mod qwen3_next;
mod subquad;

use std::path::Path;

use super::keys::Keys;
use super::spec::Spec;
use super::weights::{Source, Weights};
use crate::error::Error;

/// A family of models.
pub(crate) struct Family {
    /// Its `model_type`.
    pub name: &'static str,
    /// Reads the configuration. Every key that changes the result must be read or refused.
    pub describe: fn(&Keys, &Weights) -> Described,
    /// Tensors in the files that are no part of the model.
    pub ignored: fn(&str) -> bool,
}

/// A model, and where its tensors are.
pub(crate) type Described = Result<(Spec, Names), Error>;

/// Where a tensor is in the files, by its full name in our own form; `None` if the model has none of that name.
type SourceFn = dyn Fn(&str) -> Option<Source> + Send + Sync;

/// Where the tensors of our own form are in the files.
pub(crate) struct Names {
    /// Where each is.
    pub source: Box<SourceFn>,
    /// Whether every tensor with a source must be there. In our own form the files say which biases, norms and gates there are.
    pub strict: bool,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("strict", &self.strict).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every family.
pub(crate) static FAMILIES: &[Family] =
    &[mamba::FAMILY, mamba2::FAMILY, bamba::FAMILY, granite::FAMILY, qwen3_next::FAMILY, subquad::FAMILY];

/// The configuration of a model folder, and its family.
pub(crate) fn open(folder: &Path) -> Result<(Keys, &'static Family), Error> {
    let keys = Keys::open(&folder.join("config.json"))?;
    let names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
    let expected = format!("one of {}", names.join(", "));
    let Some(name) = keys.text("model_type")? else { return Err(keys.wrong("model_type", &expected, "none")) };
    match FAMILIES.iter().find(|family| family.name == name) {
        Some(family) => Ok((keys, family)),
        None => Err(keys.wrong("model_type", &expected, format!("`{name}`"))),
    }
}
