//! Every operator against its definition, on a GPU adapter (software ones count) and on the cpu backend.
//!
//! One binary, so that wgpu links once and one device serves all tests. Which adapter: WGPU_ADAPTER_NAME and
//! WGPU_BACKEND, else any, software too. None found fails the run unless SUBQUAD_ALLOW_NO_ADAPTER=1. SUBQUAD_QUICK=1
//! takes the quick cases.

mod conv1d;
mod goldens;
mod gpu;
mod limits;
mod linear;
mod linear_delta;
mod linear_maps;
mod linformer;
mod mamba;
mod mta;
mod parts;
mod ramnet;
mod slay;
mod softmax;
mod ssd;
mod support;
mod table;
mod yat;
