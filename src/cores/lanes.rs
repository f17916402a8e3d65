//! What kernels make of subgroups: which numbers neighbouring invocations share, and reductions over a workgroup.

use crate::gpu::Caps;
use crate::gpu::shader::{Fragment, Variant, fragment};

const ANY: Fragment = fragment!("lib/lanes_any.wgsl");
const SUBGROUP: Fragment = fragment!("lib/lanes_subgroup.wgsl");
const REDUCE_ANY: Fragment = fragment!("lib/reduce_any.wgsl");
const REDUCE_SUBGROUP: Fragment = fragment!("lib/reduce_subgroup.wgsl");

/// The size of the subgroups, if all have one and it divides so many neighbouring invocations.
fn whole_subgroups(row: usize, caps: &Caps) -> Option<u32> {
    let (least, most) = caps.subgroups?;
    (least == most && most > 1 && row.is_multiple_of(most as usize)).then_some(most)
}

/// The fragment for a kernel whose invocations share numbers in rows of `row`. On a software adapter, whose subgroups are
/// neighbouring invocations, a broadcast saves most of the time; on a GPU it would be one instruction more.
pub(crate) fn lanes(row: usize, caps: &Caps) -> Fragment {
    if caps.software && whole_subgroups(row, caps).is_some() { SUBGROUP } else { ANY }
}

/// The variant with maxima and sums over workgroups of so many invocations: by subgroups where all have one size, which saves
/// barriers, and otherwise through workgroup memory.
pub(crate) fn reducing(mut spec: Variant, invocations: usize, caps: &Caps) -> Variant {
    match whole_subgroups(invocations, caps) {
        Some(size) => {
            spec.consts.push(("SUBGROUP", size));
            spec.with(&[REDUCE_SUBGROUP])
        }
        None => spec.with(&[REDUCE_ANY]),
    }
}
