//! The layer that uses wgpu. It knows no operator.
//!
//! Pure parts, without a device: [`program`] (what to do, as data), [`shader`] (shader text), [`grid`], [`pack`],
//! `limits` (what a kernel needs, by naga). Parts with a device: [`Context`], [`pipeline`], [`Plan`], [`Workspace`],
//! [`Recording`], [`Schedule`], [`timing`]. Only [`readback`] submits work and waits.
//!
//! The documentation leaves out what only this crate's own tests and tools use: it may change in any version.

mod buffer;
pub mod caps;
pub mod context;
#[doc(hidden)]
pub mod grid;
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub mod limits;
pub mod pack;
#[doc(hidden)]
pub mod pipeline;
pub mod plan;
#[doc(hidden)]
pub mod program;
pub mod readback;
pub mod recording;
pub mod schedule;
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
pub mod self_test;
#[doc(hidden)]
pub mod shader;
pub mod timing;
pub mod workspace;

pub use caps::{Algorithm, Caps, Matrix};
#[cfg(not(target_arch = "wasm32"))]
pub use context::candidates;
pub use context::{AdapterRequest, Candidate, Context, Select};
pub use plan::Plan;
pub use program::{Cost, Program};
pub use recording::{Recording, StepInfo};
pub use schedule::{Schedule, Submission};
#[doc(hidden)]
pub use shader::{Bind, Fragment, Kernel, Variant};
pub use timing::{Lap, Span, Spread, Timer};
pub use workspace::Workspace;

/// A renderer may keep these in any thread.
#[cfg(not(target_arch = "wasm32"))]
const _: () = {
    const fn sent_and_shared<T: Send + Sync>() {}
    sent_and_shared::<Context>();
    sent_and_shared::<Plan>();
    sent_and_shared::<Recording>();
    sent_and_shared::<Schedule>();
    sent_and_shared::<Workspace>();
    sent_and_shared::<crate::tensor::Tensor>();
    sent_and_shared::<crate::error::Error>();
};
