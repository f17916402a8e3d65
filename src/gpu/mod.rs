//! The layer that knows wgpu and no operator.
//!
//! Pure parts, without a device: [`program`] (what to do, as data), [`source`] (shader text), [`grid`], [`pack`],
//! [`probes`], `limits` (what a kernel needs, by naga). Parts with a device: [`Context`], [`kernel`], [`Plan`], [`Workspace`],
//! [`Recording`], [`Schedule`], [`timing`]. The edge, which alone submits and waits: [`readback`].

mod buffer;
pub mod caps;
pub mod context;
pub mod grid;
pub mod kernel;
#[cfg(not(target_arch = "wasm32"))]
pub mod limits;
pub mod pack;
pub mod plan;
pub mod probes;
pub mod program;
pub mod readback;
pub mod recording;
pub mod schedule;
pub mod source;
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
pub use source::{Bind, Kernel, Source, Spec};
pub use timing::{Lap, Span, Spread, Timer};
pub use workspace::Workspace;
