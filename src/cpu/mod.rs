//! Code shared by the `cpu` backends of the operators: matrix products, vectorised loops, tiles of rows, threads, and
//! the scan over segments of a sequence.
//!
//! All arithmetic is in f32. The results depend only on the shape, never on the number of threads: sums have a fixed
//! order, and threads only decide who computes which segment.

pub(crate) mod channels;
pub(crate) mod gemm;
pub(crate) mod matrix;
pub(crate) mod memory;
pub(crate) mod scan;
pub(crate) mod simd;
pub(crate) mod threads;
pub(crate) mod tiles;
pub(crate) mod watch;
