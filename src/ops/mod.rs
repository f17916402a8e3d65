//! The operators. [`OPS`] has one row per operator; the command line, `check`, the tests and the benches iterate over
//! it. [`PARTS`] has the parts of operators that run alone; the command line and `check` know them too.
//!
//! Each operator uses the same name in five places: `src/ops/X`, `shaders/X`, `tests/ops/X.rs`, its row here and
//! `subquad run X`. CONTRIBUTING.md lists every place that a new operator touches.

pub mod conv1d;
pub mod linear;
pub mod linformer;
pub mod mamba;
pub mod mta;
pub mod primitives;
pub mod ramnet;
pub mod slay;
pub mod softmax;
pub mod ssd;
pub mod yat;

#[cfg(feature = "catalog")]
use crate::catalog::spec::Op;

/// Every operator of this crate.
#[cfg(feature = "catalog")]
pub static OPS: &[Op] =
    &[softmax::OP, yat::OP, linformer::OP, mta::OP, linear::OP, slay::OP, ramnet::OP, ssd::OP, mamba::OP, conv1d::OP];

/// The operator that the benches compare the others with.
#[cfg(feature = "catalog")]
pub const BASELINE: &str = softmax::OP.name;

/// The parts of operators that the command runs alone.
#[cfg(feature = "catalog")]
pub use primitives::PARTS;

/// Every operator, then every part.
#[cfg(feature = "catalog")]
pub fn all() -> impl Iterator<Item = &'static Op> + Clone {
    OPS.iter().chain(PARTS)
}

/// Finds an operator or a part by name.
#[cfg(feature = "catalog")]
pub fn find(name: &str) -> Option<&'static Op> {
    all().find(|op| op.name == name)
}
