//! Packed sequences on a GPU: kernels find the sequence of a segment by the borders, which lie behind what they store of
//! segments, because some have no binding to spare.

use crate::gpu::program::{Cost, Named, Step};
use crate::gpu::shader::{Fragment, Kernel, UniformData, Variant, fragment};
use crate::operator::mode::Mode;
use crate::tensor::DType;

/// Finds the tokens of segments. A fragment of the kernel's own reads the borders.
pub(crate) const PACKED: Fragment = fragment!("lib/packed.wgsl");
/// Finds the sequence of a token. A fragment of the kernel's own reads the borders.
pub(crate) const PACKED_TOKENS: Fragment = fragment!("lib/packed_tokens.wgsl");
/// Copies the borders. The kernel's own fragments store them.
pub(crate) const BORDERS: Fragment = fragment!("lib/borders.wgsl");

/// Why every index of the copy of borders is within bounds.
pub(crate) const BORDERS_PROOF: &str = "one border an invocation, guarded by their number; no loop";

/// Bytes of borders that a workgroup reads to find its sequence. `whole` says that each sequence has one segment.
pub(crate) fn lookup_bytes(mode: &Mode, whole: bool) -> f64 {
    let steps = |count: usize| if whole { 0 } else { count.next_power_of_two().ilog2() };
    mode.sequences.map_or(0.0, |count| 4.0 * f64::from(steps(count) + 2))
}

/// Number of stored segments of so many tokens, or of all packed sequences together at most.
pub(crate) fn segments(mode: &Mode, tokens: usize, length: usize) -> usize {
    mode.sequences.map_or(tokens.div_ceil(length), |sequences| tokens / length + sequences)
}

/// Copies the borders of packed sequences, if there are such, for a run with this uniform.
pub(crate) fn borders(
    kernel: &'static Kernel,
    mode: &Mode,
    backward: bool,
    params: &impl UniformData,
    operands: &[Named],
) -> Option<Step> {
    let count = mode.sequences? as u64 + 1;
    let spec = Variant::new(DType::F32, vec![], vec![("BACKWARD", backward.into())]);
    let bytes = mode.border_bytes();
    let cost = Cost { bytes_read: bytes, bytes_written: bytes, ..Cost::default() };
    Some(Step::new(kernel, spec, params, operands, count.div_ceil(64), cost))
}
