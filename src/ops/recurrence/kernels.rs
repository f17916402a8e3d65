//! What kernels of the recurrences are made of: files, bindings, why they stay in bounds.

use super::{FIELDS, Params};
use crate::gpu::source::{Bind, Kernel, Source, source};

pub(crate) const TYPES: Source = source!("common/recurrence_types.wgsl");
/// Factors of a decay.
pub(crate) const DECAYS: Source = source!("common/decay.wgsl");
pub(crate) const STATE_WRITE: Source = source!("common/state_write.wgsl");
pub(crate) const STATE_READ: Source = source!("common/state_read.wgsl");
pub(crate) const STORED: Source = source!("common/state_stored.wgsl");
pub(crate) const SEGMENT_CORE: Source = source!("common/recurrence_segment.wgsl");
pub(crate) const SCAN_CORE: Source = source!("common/recurrence_scan.wgsl");
pub(crate) const OUTPUT_CORE: Source = source!("common/recurrence_output.wgsl");
/// Rows of keys and of queries whose features are maps of each element, and those of one token.
pub(crate) const ROWS_KEYS: Source = source!("common/rows_keys.wgsl");
pub(crate) const ROWS_QUERIES: Source = source!("common/rows_queries.wgsl");
pub(crate) const ROWS_DECODE: Source = source!("common/rows_decode.wgsl");
/// Vectors of keys and of queries as they are stored, for features of whole vectors.
pub(crate) const VECTORS_KEYS: Source = source!("common/vectors_keys.wgsl");
pub(crate) const VECTORS_QUERIES: Source = source!("common/vectors_queries.wgsl");
pub(crate) const DECODE_CORE: Source = source!("common/recurrence_decode.wgsl");
pub(crate) use crate::ops::qkv::STRIDES_SOURCE as STRIDES_TYPES;

/// Why indices of the core stay in bounds.
pub(crate) const PROOF: &str =
    "indices are below products of the consts that size the arrays; loops end at consts or uniforms";

/// And those of the scan.
pub(crate) const SCAN_PROOF: &str =
    "no array; one element of a state an invocation, guarded by its size; loops end at uniforms";

/// Fragments of an operator whose state does not decay, whose values and outputs are what they are.
pub(crate) const PLAIN: Plain = Plain {
    decay: source!("common/decay_none.wgsl"),
    quotient: source!("common/quotient.wgsl"),
    output: source!("common/output_plain.wgsl"),
    decode_decay: source!("common/decode_none.wgsl"),
    decode_quotient: source!("common/quotient_one.wgsl"),
    decode: source!("common/decode_plain.wgsl"),
};

/// Those fragments.
pub(crate) struct Plain {
    /// Of both passes.
    pub(crate) decay: Source,
    /// Of the second: sums over weights, and where outputs go.
    pub(crate) quotient: Source,
    pub(crate) output: Source,
    /// Of decoding.
    pub(crate) decode_decay: Source,
    /// Likewise.
    pub(crate) decode_quotient: Source,
    pub(crate) decode: Source,
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
/// The carried state, read.
pub(crate) const STATE: (&str, Bind) = ("state", Bind::Read);
/// The carried state, written too.
pub(crate) const UPDATED: (&str, Bind) = ("state", Bind::Write);
pub(crate) const SEGMENTS: (&str, Bind) = ("segments", Bind::Write);

/// A kernel over the parameters of the recurrences.
pub(crate) const fn kernel(
    name: &'static str,
    sources: &'static [Source],
    bindings: Bindings,
    bounds_proof: Option<&'static str>,
) -> Kernel {
    Kernel { name, sources, bindings, params: FIELDS, params_size: size_of::<Params>(), bounds_proof }
}
