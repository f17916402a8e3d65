//! Algorithms that several operators share: tiled attention, recurrences with a state, packed
//! sequences, and the choice of segments.

pub(crate) mod attention;
pub(crate) mod lanes;
pub(crate) mod matrix;
pub(crate) mod packed;
pub(crate) mod recurrence;
pub(crate) mod rows;
pub(crate) mod segments;
