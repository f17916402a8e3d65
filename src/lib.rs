//! Sub-quadratic sequence mixing on any GPU through wgpu: hand-written WGSL kernels, each checked against a CPU
//! reference.
//!
//! To use an operator: write its configuration, plan it on a device, bind tensors to the plan, and record it into your
//! own command encoder. The objects involved, and how long each one lives:
//!
//! | object | lives | does |
//! |---|---|---|
//! | [`gpu::Context`] | process | wraps your `wgpu::Device` and `Queue`, or opens one; keeps pipelines |
//! | [`gpu::Plan`] | shape | validates, picks the variant, builds pipelines, says what workspace it needs |
//! | [`gpu::Workspace`] | as you like | grow-only scratch buffers, shared by plans that run one after another |
//! | [`gpu::Recording`] | tensors | a plan bound to tensors; replayable, encodes without failing |
//! | `wgpu::CommandEncoder` | yours | submitted by you: this crate never submits, polls or touches the queue on this path |
//!
//! Only [`gpu::readback`] submits work and waits for it. It serves programs that have no loop of their own.
//!
//! ```no_run
//! use subquad::gpu::{AdapterRequest, readback};
//! use subquad::ops::linear;
//! use subquad::{Context, DType, HostTensor, Qkv};
//!
//! fn main() -> Result<(), subquad::Error> {
//!     // In an application: Context::from_device(device, queue).
//!     let ctx = Context::open(&AdapterRequest { software: true, ..Default::default() })?;
//!     // Causal linear attention: 8 heads, 1024 tokens, head dimension 64.
//!     let config = linear::Config::new(Qkv::new().heads(8).len(1024).dim(64));
//!     let plan = config.plan(&ctx)?;
//!
//!     let ones = HostTensor::f32([1, 8, 1024, 64], vec![1.0; 8 * 1024 * 64]);
//!     let q = readback::upload(&ctx, "q", &ones)?;
//!     let k = readback::upload(&ctx, "k", &ones)?;
//!     let v = readback::upload(&ctx, "v", &ones)?;
//!     let o = readback::empty(&ctx, "o", [1, 8, 1024, 64], DType::F32)?;
//!     let recording = plan.bind(linear::Tensors::new(&q, &k, &v, &o))?;
//!
//!     let mut encoder = ctx.device().create_command_encoder(&Default::default());
//!     recording.encode(&mut encoder); // or encode_in(&mut pass)
//!     readback::submit(&ctx, encoder)?; // yours: queue.submit([encoder.finish()])
//!     println!("{:?}", readback::read_blocking(&ctx, &o)?.shape());
//!     Ok(())
//! }
//! ```
//!
//! The shortest way, from slices to tensors, is one call:
//!
//! ```no_run
//! # use subquad::{Context, Qkv, ops::softmax};
//! # fn shortest(ctx: &Context, x: &[f32]) -> Result<(), subquad::Error> {
//! let config = softmax::Config::new(Qkv::new().heads(8).len(1024).dim(64));
//! let outputs = subquad::run(ctx, &config, [("q", x), ("k", x), ("v", x)])?;
//! println!("{:?}", outputs.get("o"));
//! # Ok(())
//! # }
//! ```
//!
//! Each operator has a module in [`ops`]. Its definition in plain loops ([`Operator::reference`]) is what every kernel is
//! compared with ([`verify::tolerance`]).

// On docs.rs: shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "catalog")]
pub mod catalog;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod cores;
#[cfg(feature = "cpu")]
mod cpu;
pub mod error;
pub mod gpu;
#[cfg(feature = "files")]
pub mod io;
#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
pub mod measure;
#[cfg(all(feature = "model", not(target_arch = "wasm32")))]
pub mod model;
pub mod operator;
pub mod ops;
pub mod tensor;
pub mod verify;

pub use error::Error;
pub use gpu::{Context, Recording, Schedule, Workspace};
pub use operator::channels::Channels;
pub use operator::mode::Mode;
pub use operator::qkv::Qkv;
pub use operator::{Operator, Plan};
pub use tensor::{DType, HostTensor, Layout, Tensor, TensorMap};
#[cfg(not(target_arch = "wasm32"))]
pub use verify::run::run;
pub use wgpu;

/// Compiles the code examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
