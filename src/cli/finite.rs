//! Values that are not finite: a warning with their number and the first place, or an error with `--strict`.

use super::report::Ui;
use crate::catalog::domain::{Domain, Meaningless, meaningless};
use crate::error::Error;
use crate::tensor::{HostTensor, Shape};

/// Warns of values that are not finite and that the domain does not allow.
///
/// `when` follows the number of values in the sentence: " once stored as f16".
///
/// # Errors
/// [`Error::Tensor`] if `strict`.
pub(super) fn check(
    op: &'static str,
    name: &str,
    (tensor, domain): (&HostTensor, Domain),
    when: &str,
    strict: bool,
    ui: &mut Ui,
) -> Result<(), Error> {
    let Some(found) = meaningless(domain, tensor) else { return Ok(()) };
    let Meaningless { count, of, at, value } = found;
    let first = format!("the first {value} at {}", place(tensor.shape(), at));
    if strict {
        let found = format!("{count} of {of} that are not{when}, {first}");
        return Err(Error::tensor(op, name, "finite values (--strict)", found));
    }
    ui.warn(format!("{op}: tensor `{name}`: {count} of {of} values are not finite{when}, {first}"));
    Ok(())
}

/// The index of an element, one number per axis.
fn place(shape: &Shape, at: usize) -> Shape {
    let mut rest = at;
    let mut index: Vec<_> = shape.dims().iter().rev().map(|length| (rest % length, rest /= length).0).collect();
    index.reverse();
    index.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_index_per_axis() {
        assert_eq!(place(&[2, 3, 4].into(), 23), [1, 2, 3].into());
        assert_eq!(place(&[2, 3, 4].into(), 5), [0, 1, 1].into());
        assert_eq!(place(&[7].into(), 6), [6].into());
    }

    #[test]
    fn infinities_that_mean_something_are_not_counted() {
        let tensor = HostTensor::f32([3], vec![f32::NEG_INFINITY, f32::INFINITY, f32::NAN]);
        let check = |domain, strict| {
            let mut ui = Ui::new(true);
            super::check("linear", "g", (&tensor, domain), "", strict, &mut ui).map(|()| ui.warnings().concat())
        };
        let sentence = "linear: tensor `g`: 2 of 3 values are not finite, the first inf at [1]";
        assert_eq!(check(Domain::LogDecay, false), Ok(sentence.into()));
        let sentence = "linear: tensor `g`: 1 of 3 values are not finite, the first NaN at [2]";
        assert_eq!(check(Domain::Extended, false), Ok(sentence.into()));
        let error = check(Domain::Finite, true).map_err(|error| error.to_string());
        let sentence =
            "linear: tensor `g`: expected finite values (--strict), found 3 of 3 that are not, the first -inf at [0]";
        assert_eq!(error, Err(sentence.into()));
    }
}
