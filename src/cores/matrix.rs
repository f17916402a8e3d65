//! What every kernel that multiplies small matrices takes: units of the device or their emulation.

use crate::gpu::shader::{Fragment, MATRIX_UNITS, fragment};
use crate::gpu::{Caps, Matrix};

/// Matrices of both sizes, and products without matrix units.
const MATRIX_8: Fragment = fragment!("lib/matrix_8.wgsl");
const MATRIX_16: Fragment = fragment!("lib/matrix_16.wgsl");
const MATRIX_EMULATED: Fragment = fragment!("lib/matrix_emulated.wgsl");

/// Subgroups of a workgroup.
pub(crate) const SUBGROUPS: usize = 4;

/// Consts and fragments of the products.
pub(crate) fn products(units: Matrix) -> (Vec<(&'static str, u32)>, &'static [Fragment]) {
    let mut consts = vec![("LANES", units.lanes)];
    let fragments: &[Fragment] = match units {
        Matrix { emulated: true, tile, .. } => {
            consts.push(("TILE", tile));
            &[MATRIX_EMULATED]
        }
        Matrix { tile: 8, .. } => &[MATRIX_8, MATRIX_UNITS],
        Matrix { .. } => &[MATRIX_16, MATRIX_UNITS],
    };
    (consts, fragments)
}

/// Invocations of a workgroup.
pub(crate) fn invocations(units: Matrix) -> usize {
    SUBGROUPS * units.lanes as usize
}

/// Whether a workgroup with so much workgroup memory is possible, whose subgroups have at least `lanes` invocations and share the
/// elements of a matrix evenly.
pub(crate) fn fits(units: Matrix, lanes: usize, bytes: usize, caps: &Caps) -> bool {
    let (own, tile, limits) = (units.lanes as usize, units.tile as usize, &caps.limits);
    let invocations = invocations(units) as u32;
    own.is_power_of_two()
        && (lanes..=tile * tile).contains(&own)
        && bytes <= limits.max_compute_workgroup_storage_size as usize
        && invocations <= limits.max_compute_invocations_per_workgroup
        && invocations <= limits.max_compute_workgroup_size_x
}

/// Names the units, for people.
pub(crate) fn describe(units: Matrix) -> String {
    let how = if units.emulated { "emulated matrices" } else { "matrix units" };
    format!("{how} of {0}x{0}", units.tile)
}
