//! How a kernel says which numbers neighbouring invocations share.

use crate::gpu::Caps;
use crate::gpu::shader::{Fragment, fragment};

const ANY: Fragment = fragment!("lib/lanes_any.wgsl");
const SUBGROUP: Fragment = fragment!("lib/lanes_subgroup.wgsl");

/// The fragment for a kernel whose invocations share numbers in rows of `row`. On a software adapter, whose subgroups are
/// neighbouring invocations, a broadcast saves most of the time; on a GPU it would be one instruction more.
pub(crate) fn lanes(row: usize, caps: &Caps) -> Fragment {
    let whole = |most: u32| most > 1 && row.is_multiple_of(most as usize);
    let shared = caps.subgroups.is_some_and(|(least, most)| least == most && whole(most));
    if shared && caps.software { SUBGROUP } else { ANY }
}
