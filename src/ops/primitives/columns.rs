//! How many neighbouring columns of a row an invocation of a part takes at once.

use crate::gpu::shader::{Fragment, fragment};

const ONE: Fragment = fragment!("primitives/columns_one.wgsl");
const FOUR: Fragment = fragment!("primitives/columns_four.wgsl");

/// Four columns if all these lengths are multiples of four, otherwise one.
pub(super) fn most(lengths: &[usize]) -> usize {
    if lengths.iter().all(|length| length.is_multiple_of(4)) { 4 } else { 1 }
}

/// The fragment for so many columns.
pub(super) fn of(columns: usize) -> Fragment {
    if columns == 4 { FOUR } else { ONE }
}
