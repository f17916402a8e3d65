//! What made a state file: written into its metadata, and compared before a run goes on from it. A state of another rule or of
//! other random features has the right shape and the wrong meaning. A summary of a piece of a sequence says the same under
//! another name, so that neither is taken for the other.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;

use super::report::{self, Ui};
use crate::catalog::summaries::Settings;
use crate::error::Error;
use crate::gpu::shader;
use crate::operator::Operator;
use crate::tensor::{HostTensor, TensorMap};

/// The entry in the metadata of a state file.
pub(super) const KEY: &str = "state";

/// The entry in the metadata of a summary.
pub(super) const SUMMARY: &str = "summary";

/// The operator, then everything that the numbers of its state depend on, as names and values without spaces.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Provenance(Vec<(String, String)>);

impl Provenance {
    /// The provenance of the state that a run makes. `tensors` holds the weights that the operator reads.
    pub(super) fn of(operator: &dyn Operator, tensors: &TensorMap) -> Self {
        let basis = operator.state_basis();
        let mut pairs = vec![("operator".to_owned(), operator.name().to_owned())];
        pairs.extend(basis.settings.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let hashed = |name: &&str| Some(((*name).to_owned(), format!("{:016x}", hash(tensors.get(name)?))));
        pairs.extend(basis.weights.iter().filter_map(hashed));
        Self(pairs)
    }

    /// What made a summary, as its file says.
    ///
    /// # Errors
    /// [`Error::File`] if the file is none.
    pub(super) fn of_summary(path: &Path, metadata: &BTreeMap<String, String>) -> Result<Self, Error> {
        let found = match metadata.get(SUMMARY) {
            Some(text) => return Ok(Self(read(text))),
            None if metadata.contains_key(KEY) => "a state (--state-out writes one; --state-in takes it)",
            None => "a file that does not say it is one",
        };
        Err(Error::file(path, format!("expected a summary that `subquad run` wrote with --summary-out, found {found}")))
    }

    /// The operator.
    pub(super) fn operator(&self) -> &str {
        known(&self.0, "operator").unwrap_or_default()
    }

    /// The settings of the operator and the hashes of its weights.
    pub(super) fn settings(&self) -> Settings<'_> {
        Settings(&self.0)
    }

    /// What differs from another, each side as a list for people; `None` if nothing does.
    pub(super) fn differences(&self, other: &Self) -> Option<[String; 2]> {
        let mut names: Vec<&String> = Vec::new();
        for (name, _) in self.0.iter().chain(&other.0) {
            if known(&self.0, name) != known(&other.0, name) && !names.contains(&name) {
                names.push(name);
            }
        }
        let side = |pairs: &[(String, String)]| {
            let one = |name: &&String| format!("{name} {}", known(pairs, name).unwrap_or("none"));
            names.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        (!names.is_empty()).then(|| [side(&self.0), side(&other.0)])
    }

    /// The text of the entry in the metadata: `operator=slay poly=anchor omega=91..`.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    /// Refuses a state that something else made, as far as its file says. `any` takes it with a warning.
    ///
    /// # Errors
    /// [`Error::File`] with what differs on both sides.
    pub(super) fn check(
        &self,
        path: &Path,
        metadata: &BTreeMap<String, String>,
        any: bool,
        ui: &mut Ui,
    ) -> Result<(), Error> {
        let differences = match (metadata.get(KEY), metadata.get("operator")) {
            _ if metadata.contains_key(SUMMARY) => {
                Some(", found a summary, of which `subquad merge` makes a state".into())
            }
            (Some(text), _) => self.differences(&Self(read(text))).map(found_one),
            // A file of an earlier version says less: only what it says is compared.
            (None, Some(operator)) => {
                let pair = |operator: &str| Self(vec![("operator".to_owned(), operator.to_owned())]);
                pair(self.operator()).differences(&pair(operator)).map(found_one)
            }
            (None, None) => {
                ui.note(&format!("{}: does not say what made this state; taken as it is", report::path(path)));
                None
            }
        };
        let Some(differences) = differences else { return Ok(()) };
        let text = format!("expected a state{differences}");
        if any {
            ui.warn(format!("{}: {text}; taken because of --state-any", report::path(path)));
            return Ok(());
        }
        Err(Error::file(path, format!("{text} (--state-any takes it nevertheless)")))
    }
}

fn found_one([own, other]: [String; 2]) -> String {
    format!(" made with {own}, found one made with {other}")
}

fn known<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

fn read(text: &str) -> Vec<(String, String)> {
    let pair = |word: &str| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (name.to_owned(), value.to_owned())
    };
    text.split_whitespace().map(pair).collect()
}

/// A hash of the shape and the values of a tensor, the same for f32 values and for those rounded to f16: FNV-1a, 64 bits.
fn hash(tensor: &HostTensor) -> u64 {
    let lengths = tensor.shape().dims().iter().map(|length| *length as u64);
    let values = tensor.to_f32().into_iter().map(|value| u64::from(f16::from_f32(value).to_bits()));
    shader::hash(lengths.chain(values).flat_map(u64::to_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn a_hash_tells_values_and_shapes_apart_but_not_storage() {
        let tensor = |shape: [usize; 2], values: &[f32]| HostTensor::f32(shape, values.to_vec());
        let one = tensor([2, 2], &[0.1, 0.2, 0.3, 0.4]);
        assert_eq!(hash(&one), hash(&one.cast(DType::F16)));
        assert_ne!(hash(&one), hash(&tensor([4, 1], &[0.1, 0.2, 0.3, 0.4])));
        assert_ne!(hash(&one), hash(&tensor([2, 2], &[0.1, 0.3, 0.2, 0.4])));
    }

    #[test]
    fn a_state_is_refused_with_both_sides() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let own = Provenance(vec![pair("operator", "linear"), pair("rule", "gated"), pair("omega", "ab")]);
        let check = |metadata: &[(&str, &str)], any| {
            let metadata = metadata.iter().map(|(key, value)| pair(key, value)).collect();
            let mut ui = Ui::new(true);
            own.check(Path::new("s.npz"), &metadata, any, &mut ui)
                .map_err(|e| e.to_string())
                .map(|()| ui.warnings().len())
        };
        assert_eq!(check(&[(KEY, &own.text())], false), Ok(0));
        assert_eq!(check(&[], false), Ok(0));
        assert_eq!(check(&[("operator", "linear")], false), Ok(0));
        let sentence = "s.npz: expected a state made with rule gated, omega ab, normalize none, found one made with rule \
                        linear, omega none, normalize true (--state-any takes it nevertheless)";
        let other = [(KEY, "operator=linear rule=linear normalize=true")];
        assert_eq!(check(&other, false), Err(sentence.into()));
        assert_eq!(check(&other, true), Ok(1));
        assert!(check(&[("operator", "ssd")], false).is_err());
    }
}
