//! Loads of rows of q, k and v, and stores of o: element by element, and four elements at once.

use crate::gpu::shader::{Fragment, Variant, fragment};
use crate::operator::qkv::Qkv;

/// What all loads and stores need.
pub(crate) const ROWS: Fragment = fragment!("lib/rows/rows.wgsl");
/// Element by element. A tensor's fragment follows the first, which all need.
pub(crate) const NARROW: [Fragment; 5] = [
    fragment!("lib/rows/narrow.wgsl"),
    fragment!("lib/rows/narrow_q.wgsl"),
    fragment!("lib/rows/narrow_k.wgsl"),
    fragment!("lib/rows/narrow_v.wgsl"),
    fragment!("lib/rows/narrow_o.wgsl"),
];
/// Four elements at once, where D, E, strides and starts are multiples of four.
const WIDE: [Fragment; 5] = [
    fragment!("lib/rows/wide.wgsl"),
    fragment!("lib/rows/wide_q.wgsl"),
    fragment!("lib/rows/wide_k.wgsl"),
    fragment!("lib/rows/wide_v.wgsl"),
    fragment!("lib/rows/wide_o.wgsl"),
];

/// The tensors that a kernel loads or stores, by their slots.
pub(crate) const Q: usize = 0;
pub(crate) const K: usize = 1;
pub(crate) const V: usize = 2;
pub(crate) const O: usize = 3;

/// Keys and values with the storage type of the queries.
pub(crate) const KEYS_STORED: Fragment = fragment!("lib/rows/keys_stored.wgsl");
/// Keys and values stored as f32.
pub(crate) const KEYS_F32: Fragment = fragment!("lib/rows/keys_f32.wgsl");
/// The element type of outputs: as the tensor stores them, or sums of several runs.
pub(crate) const OUTPUTS_STORED: Fragment = fragment!("lib/rows/outputs_stored.wgsl");
pub(crate) const OUTPUTS_F32: Fragment = fragment!("lib/rows/outputs_f32.wgsl");

/// Chooses how a kernel loads and stores the tensors that it wants: four elements at once if D and E are multiples of four.
/// Strided tensors need not be: then the second variant serves. `more` are further fragments for each of the two.
pub(crate) fn rows(
    s: &Qkv,
    spec: &Variant,
    keys: Fragment,
    wanted: &[usize],
    more: [&[Fragment]; 2],
) -> (Variant, Option<Variant>) {
    let of = |rows: [Fragment; 5], more: &[Fragment]| {
        let each: Vec<_> = wanted.iter().map(|&wanted| rows[1 + wanted]).collect();
        spec.clone().with(&[keys, rows[0]]).with(&each).with(more)
    };
    let [wide, narrow] = [of(WIDE, more[0]), of(NARROW, more[1])];
    if s.dim_k.is_multiple_of(4) && s.dim_v.is_multiple_of(4) { (wide, Some(narrow)) } else { (narrow, None) }
}
