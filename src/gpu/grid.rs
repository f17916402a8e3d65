//! Workgroup counts. Pure.
//!
//! A kernel sees one number: the index of its workgroup. This module splits the workgroups into dispatches that are
//! short enough for a watchdog, and folds a dispatch into x and y if it exceeds the limit of one dimension.

use bytemuck::{Pod, Zeroable};

/// First field of every `Params`; twin of `struct Grid` in `shaders/lib/grid.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Grid {
    /// Index of the first workgroup of this dispatch.
    pub base: u32,
    /// One past the last.
    pub end: u32,
    /// Unused.
    pub _pad: [u32; 2],
}

/// One dispatch of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispatch {
    /// The grid fields of its uniform.
    pub grid: Grid,
    /// Workgroups in x, y, z.
    pub groups: [u32; 3],
}

/// Splits `groups` workgroups, numbered from `first`, into dispatches of at most `most` workgroups. Each dispatch is
/// folded so that no dimension exceeds `per_dimension`.
///
/// Returns `None` if a workgroup number does not fit u32.
pub fn dispatches(first: u64, groups: u64, most: u64, per_dimension: u32) -> Option<Vec<Dispatch>> {
    let total = u32::try_from(first.checked_add(groups)?).ok()?;
    let square = u64::from(per_dimension) * u64::from(per_dimension);
    let most = most.clamp(1, square);
    let mut list = Vec::new();
    let mut base = first as u32;
    while base < total {
        let count = u64::from(total - base).min(most) as u32;
        let rows = count.div_ceil(per_dimension);
        // The last row may be incomplete: the shader compares its index with `end`.
        let groups = [count.div_ceil(rows), rows, 1];
        list.push(Dispatch { grid: Grid { base, end: base + count, _pad: [0; 2] }, groups });
        base += count;
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_group_is_dispatched_once(
            first in 0u64..5000, groups in 0u64..2_000_000, most in 1u64..3_000_000, limit in 1u32..70_000,
        ) {
            let list = dispatches(first, groups, most, limit).unwrap();
            let mut next = first as u32;
            for d in &list {
                prop_assert_eq!(d.grid.base, next);
                let count = d.grid.end - d.grid.base;
                prop_assert!(u64::from(count) <= most);
                prop_assert!(d.groups.iter().all(|&g| g <= limit && g > 0));
                prop_assert!(d.groups[0] as u64 * d.groups[1] as u64 >= u64::from(count));
                next = d.grid.end;
            }
            prop_assert_eq!(u64::from(next), first + groups);
        }
    }

    #[test]
    fn too_many_groups_are_refused() {
        assert_eq!(dispatches(0, 1 << 32, 10, 65535), None);
    }
}
