//! Two layers in one encoder: Linformer, then exact softmax over its output. Prints the schedule.
//!
//! The second layer reads the buffer that the first one writes, without a round trip to the host. Both share one
//! workspace.
//!
//! ```text
//! cargo run --release --example two_layers [LENGTH]
//! ```

use std::error::Error;

use subquad::gpu::{AdapterRequest, Context, Schedule, Workspace, readback};
use subquad::operator::Operator;
use subquad::operator::qkv::Qkv;
use subquad::ops::{linformer, softmax};
use subquad::tensor::{DType, HostTensor, TensorMap};

const HEADS: usize = 4;
const DIM: usize = 32;
const RANK: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let length: usize = std::env::args().nth(1).map_or(Ok(1024), |word| word.parse())?;
    let ctx = Context::open(&AdapterRequest { software: true, ..AdapterRequest::default() })?;
    println!("on {}", ctx.info().name);

    let shape = [1, HEADS, length, DIM];
    let qkv = Qkv::new().heads(HEADS).len(length).dim(DIM);
    let low = linformer::Config::new(qkv, RANK);
    let exact = softmax::Config::new(qkv);
    let low_plan = low.plan(&ctx)?;
    let exact_plan = exact.plan(&ctx)?;
    let mut workspace = Workspace::new();
    low_plan.reserve(&mut workspace)?;
    exact_plan.reserve(&mut workspace)?;

    let x = made_up(shape, 1);
    let e = made_up([1, 1, RANK, length], 2).reshape([1, RANK, length]);
    let input = readback::upload(&ctx, "x", &x)?;
    let projection = readback::upload(&ctx, "e", &e)?;
    let middle = readback::empty(&ctx, "middle", shape, DType::F32)?;
    let output = readback::empty(&ctx, "output", shape, DType::F32)?;

    let mut schedule = Schedule::new();
    let first = linformer::Tensors { q: &input, k: &input, v: &input, o: &middle, e: Some(&projection), f: None };
    schedule.push(low_plan.bind_in(first, &workspace)?);
    let second = softmax::Tensors::new(&middle, &middle, &middle, &output);
    schedule.push(exact_plan.bind_in(second, &workspace)?);
    print!("{schedule}");

    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    schedule.encode(&mut encoder);
    readback::submit(&ctx, encoder)?;
    let got = readback::read_blocking(&ctx, &output)?;

    // The same two layers on the cpu backend.
    let layer = |operator: &dyn Operator, x: &HostTensor| -> Result<HostTensor, subquad::Error> {
        let mut tensors: TensorMap = ["q", "k", "v"].map(|name| (name.to_owned(), x.clone())).into_iter().collect();
        tensors.insert("e", e.clone());
        let mut outputs = operator.cpu(&tensors)?;
        outputs.remove("o").ok_or_else(|| subquad::Error::Usage("no output".into()))
    };
    let want = layer(&exact, &layer(&low, &x)?)?;
    let error = subquad::verify::tolerance::relative_rms(&got.to_f64(), &want.to_f64());
    println!("differs from the cpu backend by {error:.1e} (relative RMS)");
    if error < 1e-5 { Ok(()) } else { Err("the output is wrong".into()) }
}

/// Values between -1 and 1.
fn made_up(shape: [usize; 4], seed: u32) -> HostTensor {
    let value = |i: u32| (i.wrapping_add(seed << 20).wrapping_mul(2_654_435_761) >> 16) as f32 / 32768.0 - 1.0;
    HostTensor::f32(shape, (0..shape.iter().product::<usize>() as u32).map(value).collect())
}
