//! Verification of outputs: precision types for the references, the tolerance, sampled rows, and runs on any backend.

pub mod float;
#[cfg(feature = "catalog")]
pub mod rows;
pub mod run;
pub mod tolerance;
