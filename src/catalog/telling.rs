//! Names of tensors that change the result wherever they are read. A file that holds one comes from a model that computes
//! something else: to skip it would give another result without a word.

use super::spec::Op;
use crate::error::Error;

/// Names of tensors that change the result of whatever model reads them.
const NAMES: [&str; 8] = ["mask", "attn_mask", "bias", "cu_seqlens", "seq_idx", "lengths", "sink", "initial_state"];

/// Refuses a name of this list among those of tensors that the operator does not read.
///
/// # Errors
/// [`Error::Unread`].
pub fn check<'a>(op: &Op, unread: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    let Some(name) = unread.into_iter().find(|name| NAMES.contains(name)) else { return Ok(()) };
    let advice = if name == "initial_state" && !op.state.is_empty() {
        "remove it from the file, and give the state with --state-in"
    } else {
        "remove it from the file, or rename it if it is something else"
    };
    Err(Error::Unread { op: op.name, tensor: name.into(), advice })
}
