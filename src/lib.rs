//! Sub-quadratic sequence mixing on any GPU through wgpu: hand-written WGSL, each kernel checked against a CPU reference.
//!
//! An operator is configured, planned on a device, bound to tensors and recorded into your own encoder. The objects, by
//! how long they live:
//!
//! | object | lives | does |
//! |---|---|---|
//! | [`gpu::Context`] | process | wraps your `wgpu::Device` and `Queue`, or opens one; keeps pipelines |
//! | [`gpu::Plan`] | shape | validates, picks the variant, builds pipelines, says what workspace it needs |
//! | [`gpu::Workspace`] | as you like | grow-only scratch buffers, shared by plans that run one after another |
//! | [`gpu::Recording`] | tensors | a plan bound to tensors; replayable, encodes without failing |
//! | `wgpu::CommandEncoder` | yours | submitted by you: this crate never submits, polls or touches the queue on this path |
//!
//! What does submit and wait is one file, [`gpu::readback`], for programs that have no loop of their own.
//!
//! ```no_run
//! use subquad::gpu::{AdapterRequest, Context, Workspace, readback};
//! use subquad::ops::{self, Qkv};
//! use subquad::ops::linear::{self, Config};
//! use subquad::tensor::{DType, HostTensor};
//!
//! fn main() -> Result<(), subquad::Error> {
//!     // In an application: Context::from_device(device, queue).
//!     let ctx = Context::open(&AdapterRequest { software: true, ..Default::default() })?;
//!     // Causal linear attention, 8 heads, 1024 tokens, head dim 64.
//!     let config = Config::new(Qkv::new(1, 8, 1024, 64, 64));
//!     let plan = ops::plan(&ctx, &config)?;
//!     let mut workspace = Workspace::new();
//!     workspace.reserve(&ctx, plan.workspace())?;
//!
//!     let ones = HostTensor::f32([1, 8, 1024, 64], vec![1.0; 8 * 1024 * 64]);
//!     let q = readback::upload(&ctx, "q", &ones)?;
//!     let k = readback::upload(&ctx, "k", &ones)?;
//!     let v = readback::upload(&ctx, "v", &ones)?;
//!     let o = readback::empty(&ctx, "o", [1, 8, 1024, 64], DType::F32)?;
//!     let tensors = linear::Tensors::new(&q, &k, &v, &o);
//!     let recording = linear::bind(&plan, tensors, &workspace)?;
//!
//!     let mut encoder = ctx.device().create_command_encoder(&Default::default());
//!     recording.encode(&mut encoder); // or encode_in(&mut pass)
//!     readback::submit(&ctx, encoder)?; // yours: queue.submit([encoder.finish()])
//!     println!("{:?}", readback::read_blocking(&ctx, &o)?.shape());
//!     Ok(())
//! }
//! ```
//!
//! Operators are rows of [`ops::OPS`]; each has a definition in plain loops ([`ops::Operator::reference`]) that every
//! kernel is judged by ([`ops::tolerance`]).
// On docs.rs: shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

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

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
