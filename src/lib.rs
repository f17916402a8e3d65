//! Sub-quadratic sequence mixing on any GPU.
#![warn(missing_docs)]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod error;
pub mod gpu;
#[cfg(feature = "cli")]
pub mod io;
pub mod ops;
pub mod tensor;

pub use error::Error;
pub use wgpu;
