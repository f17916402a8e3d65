//! What an application meets: tensors that lie inside its own buffers, a cache that grows, and what it is told when
//! something does not fit.

mod lengths;
mod pairs;
mod refused;
mod strided;

use subquad::gpu::{AdapterRequest, Context, Plan, Workspace, pack, readback};
use subquad::tensor::{Access, HostTensor, Tensor, TensorMap};

/// A device of its own. `None`, with a printed line, where there is none and that is allowed.
fn open() -> Option<Context> {
    match Context::open(&AdapterRequest { software: true, ..AdapterRequest::default() }) {
        Ok(ctx) => Some(ctx),
        Err(error) if std::env::var("SUBQUAD_ALLOW_NO_ADAPTER").is_ok_and(|v| v == "1") => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}; set SUBQUAD_ALLOW_NO_ADAPTER=1 to run the tests that need none"),
    }
}

/// Numbers between -1 and 1, the same for the same seed.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// A buffer of the caller with these values.
fn buffer(ctx: &Context, values: &HostTensor) -> wgpu::Buffer {
    readback::upload(ctx, "caller's", values).unwrap().buffer().clone()
}

fn run(ctx: &Context, plan: &Plan, tensors: &[(&str, &Tensor)]) {
    let mut workspace = Workspace::new();
    workspace.reserve(ctx, plan.workspace()).unwrap();
    let recording = plan.bind(tensors, &workspace).unwrap();
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    recording.encode(&mut encoder);
    readback::submit(ctx, encoder).unwrap();
}

/// Every slot in a contiguous buffer of its own; what is read holds numbers.
fn contiguous(ctx: &Context, plan: &Plan) -> Vec<(&'static str, Tensor)> {
    let fill = |(i, slot): (usize, &subquad::tensor::Slot)| {
        let given: TensorMap = slot
            .parts
            .iter()
            .zip(0..)
            .filter(|_| slot.access == Access::Read)
            .map(|(part, j)| {
                let numbers = values(part.shape.count(), 100 * i as u32 + j);
                // A decay is the logarithm of a factor below 1.
                let numbers = if slot.name == "g" { numbers.iter().map(|x| 0.2 * x - 0.2).collect() } else { numbers };
                (part.name.to_owned(), HostTensor::f32(part.shape.clone(), numbers).cast(part.dtype))
            })
            .collect();
        (slot.name, readback::upload(ctx, slot.name, &pack::pack(slot, &given)).unwrap())
    };
    plan.slots().iter().enumerate().map(fill).collect()
}

/// The quick set of tools/check.
fn quick() -> bool {
    std::env::var("SUBQUAD_QUICK").is_ok_and(|v| v == "1")
}
