//! The layer that uses wgpu. It knows no operator.
//!
//! Pure parts, without a device: [`program`] (what to do, as data), [`shader`] (shader text), [`grid`], [`pack`],
//! `limits` (what a kernel needs, by naga). Parts with a device: [`Context`], [`pipeline`], [`Plan`], [`Workspace`],
//! [`Recording`], [`Schedule`], [`timing`]. Only [`readback`] submits work and waits.

mod buffer;
pub mod caps;
pub mod context;
pub mod grid;
#[cfg(not(target_arch = "wasm32"))]
pub mod limits;
pub mod pack;
pub mod pipeline;
pub mod plan;
pub mod program;
pub mod readback;
pub mod recording;
pub mod schedule;
pub mod shader;
pub mod timing;
pub mod workspace;

pub use caps::Caps;
#[cfg(not(target_arch = "wasm32"))]
pub use context::candidates;
pub use context::{AdapterRequest, Candidate, Context, Select};
pub use plan::Plan;
pub use program::{Cost, Program};
pub use recording::{Recording, StepInfo};
pub use schedule::{Schedule, Submission};
pub use shader::{Bind, Fragment, Kernel, Variant};
pub use timing::{Lap, Span, Spread, Timer};
pub use workspace::Workspace;
