//! WGSL fragments, bindings and bounds proofs for the kernels of the recurrences.

use super::Params;
use crate::gpu::shader::{Bind, Fragment, Kernel, Variant, fragment};
use crate::operator::qkv::Qkv;

pub(crate) const TYPES: Fragment = fragment!("cores/recurrence/types.wgsl");
/// Computes decay factors.
pub(crate) const DECAYS: Fragment = fragment!("cores/recurrence/decay.wgsl");
pub(crate) const ROWS: Fragment = fragment!("cores/recurrence/rows.wgsl");
/// Loads of k and v, then loads of q and stores of o: element by element, and four elements at once.
pub(crate) const NARROW: [Fragment; 2] =
    [fragment!("cores/recurrence/rows_narrow.wgsl"), fragment!("cores/recurrence/rows_narrow_output.wgsl")];
const WIDE: [Fragment; 2] =
    [fragment!("cores/recurrence/rows_wide.wgsl"), fragment!("cores/recurrence/rows_wide_output.wgsl")];
pub(crate) const STATE_WRITE: Fragment = fragment!("cores/recurrence/rank_one_update.wgsl");
pub(crate) const STATE_READ: Fragment = fragment!("cores/recurrence/query_state.wgsl");
pub(crate) const STORED: Fragment = fragment!("cores/recurrence/store_segment.wgsl");
pub(crate) const SEGMENT_CORE: Fragment = fragment!("cores/recurrence/segment.wgsl");
pub(crate) const SCAN_CORE: Fragment = fragment!("cores/recurrence/scan.wgsl");
pub(crate) const OUTPUT_CORE: Fragment = fragment!("cores/recurrence/output.wgsl");
/// Loads keys and queries whose features map each element on its own, for tiles of tokens and for one token.
pub(crate) const ROWS_KEYS: Fragment = fragment!("cores/recurrence/load_k_mapped.wgsl");
pub(crate) const ROWS_QUERIES: Fragment = fragment!("cores/recurrence/load_q_mapped.wgsl");
pub(crate) const ROWS_DECODE: Fragment = fragment!("cores/recurrence/decode_mapped.wgsl");
/// Loads keys and queries as they are stored, for features that need whole vectors.
pub(crate) const VECTORS_KEYS: Fragment = fragment!("cores/recurrence/load_k_raw.wgsl");
pub(crate) const VECTORS_QUERIES: Fragment = fragment!("cores/recurrence/load_q_raw.wgsl");
pub(crate) const DECODE_CORE: Fragment = fragment!("cores/recurrence/decode.wgsl");
pub(crate) use crate::operator::qkv::STRIDES_SOURCE as STRIDES_TYPES;

/// Why every index of the core is within bounds.
pub(crate) const PROOF: &str =
    "indices are below products of the consts that size the arrays; loops end at consts or uniforms";

/// Why every index of the scan is within bounds.
pub(crate) const SCAN_PROOF: &str =
    "no array; one element of a state an invocation, guarded by its size; loops end at uniforms";

/// Fragments of an operator whose state does not decay and whose values and outputs are used unchanged.
pub(crate) const PLAIN: Plain = Plain {
    decay: fragment!("cores/recurrence/decay_none.wgsl"),
    quotient: fragment!("cores/recurrence/normalize.wgsl"),
    output: fragment!("cores/recurrence/epilogue_none.wgsl"),
    decode_decay: fragment!("cores/recurrence/decode_decay_none.wgsl"),
    decode_quotient: fragment!("cores/recurrence/normalize_one.wgsl"),
    decode: fragment!("cores/recurrence/decode_epilogue_none.wgsl"),
};

/// The fragments of [`PLAIN`].
pub(crate) struct Plain {
    /// For both passes: the decay.
    pub(crate) decay: Fragment,
    /// For the second pass: the division of sums by weights, and the epilogue of outputs.
    pub(crate) quotient: Fragment,
    pub(crate) output: Fragment,
    /// For decoding: the decay.
    pub(crate) decode_decay: Fragment,
    /// For decoding: the division of sums by weights, and the epilogue of outputs.
    pub(crate) decode_quotient: Fragment,
    pub(crate) decode: Fragment,
}

/// The four kernels of an operator.
pub(crate) struct Kernels {
    pub(crate) segment: &'static Kernel,
    pub(crate) scan: &'static Kernel,
    pub(crate) output: &'static Kernel,
    pub(crate) decode: &'static Kernel,
}

/// Storage bindings of a kernel.
pub(crate) type Bindings = &'static [(&'static str, Bind)];

pub(crate) const K: (&str, Bind) = ("k", Bind::Read);
pub(crate) const V: (&str, Bind) = ("v", Bind::Read);
pub(crate) const Q: (&str, Bind) = ("q", Bind::Read);
pub(crate) const O: (&str, Bind) = ("o", Bind::Write);
pub(crate) const WEIGHTS: (&str, Bind) = ("weights", Bind::Read);
/// The carried state, only read.
pub(crate) const STATE: (&str, Bind) = ("state", Bind::Read);
/// The carried state, read and written.
pub(crate) const UPDATED: (&str, Bind) = ("state", Bind::Write);
pub(crate) const SEGMENTS: (&str, Bind) = ("segments", Bind::Write);

/// Creates a kernel that uses [`Params`].
pub(crate) const fn kernel(
    name: &'static str,
    sources: &'static [Fragment],
    bindings: Bindings,
    bounds_proof: Option<&'static str>,
) -> Kernel {
    Kernel { name, sources, bindings, params: Params::UNIFORM, bounds_proof }
}

/// Chooses how a kernel loads rows: four elements at once if D and E are multiples of four. Strided tensors need not be: then
/// the second variant serves.
pub(crate) fn rows(s: &Qkv, spec: Variant, output: bool) -> (Variant, Option<Variant>) {
    let [wide, narrow] = [WIDE, NARROW].map(|fragments| spec.clone().with(&fragments[..if output { 2 } else { 1 }]));
    if s.dim_k.is_multiple_of(4) && s.dim_v.is_multiple_of(4) { (wide, Some(narrow)) } else { (narrow, None) }
}
