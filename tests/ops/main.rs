//! Every operator against its definition, on a GPU adapter (software ones count) and on the cpu backend.
//!
//! One binary, so that wgpu links once and the tests share devices. A trial is a case on a backend, named
//! `gpu::softmax::decode_f16`, or a test function, named as its module has it: `cargo test --test ops -- gpu::softmax`
//! runs the cases of softmax on the GPU. A new case is a trial without being registered; a new test function is
//! listed in `tests` of its module.
//!
//! The adapter is the one that WGPU_ADAPTER_NAME and WGPU_BACKEND name, otherwise any, including software adapters. A missing
//! adapter fails the run unless SUBQUAD_ALLOW_NO_ADAPTER=1. SUBQUAD_QUICK=1 selects the quick cases; a software adapter runs
//! fewer of them (`cover`).

mod algorithms;
mod bytes;
mod cases;
mod conv1d;
mod cover;
mod forms;
mod goldens;
mod gpu;
mod limits;
mod linear;
mod linear_delta;
mod linear_maps;
mod linformer;
mod look_ahead;
mod mamba;
mod matmul;
mod matrix;
mod mta;
mod pieces;
mod primitives;
mod primitives_models;
mod ramnet;
mod ramnet_forms;
mod slay;
mod softmax;
mod ssd;
mod summaries;
mod support;
mod table;
mod tiles;
mod units;
mod yat;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let modules = [
        cases::tests(),
        algorithms::tests(),
        bytes::tests(),
        table::tests(),
        tiles::tests(),
        pieces::tests(),
        summaries::tests(),
        look_ahead::tests(),
        goldens::tests(),
        gpu::tests(),
        forms::tests(),
        limits::tests(),
        linear::tests(),
        linear_delta::tests(),
        linear_maps::tests(),
        linformer::tests(),
        mamba::tests(),
        matmul::tests(),
        matrix::tests(),
        units::tests(),
        mta::tests(),
        primitives::tests(),
        primitives_models::tests(),
        ramnet::tests(),
        ramnet_forms::tests(),
        slay::tests(),
        softmax::tests(),
        ssd::tests(),
        yat::tests(),
        conv1d::tests(),
    ];
    libtest_mimic::run(&Arguments::from_args(), modules.into_iter().flatten().collect()).exit_code()
}
