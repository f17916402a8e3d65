//! Verification of outputs: precision types for the references, the tolerance, sampled rows, and runs on any backend.

#[doc(hidden)]
pub mod float;
#[cfg(feature = "catalog")]
#[doc(hidden)]
pub mod rows;
pub mod run;
pub mod tolerance;
