//! Attention inside an existing wgpu program. The program owns the device, the buffers and the encoder, runs compute
//! passes of its own before and after, and submits once. The library only records its dispatches in between.
//!
//! ```text
//! cargo run --release --example embed
//! ```

use std::error::Error;

use subquad::ops::softmax::{Config, Tensors};
use subquad::{Context, DType, Error as AttentionError, Plan, Qkv, Recording, Tensor};
use wgpu::{BufferUsages, CommandEncoder, Device};

const HEADS: usize = 4;
const TOKENS: usize = 1024;
const DIM: usize = 32;
const COUNT: u64 = (HEADS * TOKENS * DIM) as u64;

/// The program's own shaders: the first computes q, k and v, the second the mean of the output over all tokens.
const SHADERS: &str = "
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read> o: array<f32>;
@group(0) @binding(2) var<storage, read_write> mean: array<f32>;

@compute @workgroup_size(64)
fn make(@builtin(global_invocation_id) id: vec3<u32>) {
    // Values between -1 and 1, identical on every machine.
    x[id.x] = f32((id.x * 2654435761u) >> 16u) / 32768.0 - 1.0;
}

@compute @workgroup_size(64)
fn average(@builtin(global_invocation_id) id: vec3<u32>) {
    let tokens = 1024u;
    let dim = 32u;
    if (id.x >= arrayLength(&mean)) {
        return;
    }
    var sum = 0.0;
    for (var n = 0u; n < tokens; n++) {
        sum += o[(id.x / dim * tokens + n) * dim + id.x % dim];
    }
    mean[id.x] = sum / f32(tokens);
}
";

/// Kept as long as the shape is used: the pipelines are the plan's, and so is the scratch memory.
struct Attention {
    recording: Recording,
    _plan: Plan<Config>,
}

impl Attention {
    /// Attention over the program's buffers. `qkv` holds q, then k, then v.
    fn new(device: &Device, queue: &wgpu::Queue, qkv: &wgpu::Buffer, o: &wgpu::Buffer) -> Result<Self, AttentionError> {
        let ctx = Context::from_device(device.clone(), queue.clone());
        let config = Config { window: Some(256), ..Config::new(Qkv::new().heads(HEADS).len(TOKENS).dim(DIM)) };
        let plan = config.plan(&ctx)?;

        let shape = [1, HEADS, TOKENS, DIM];
        let part = |i: u64| Tensor::view(qkv, 4 * COUNT * i..4 * COUNT * (i + 1), shape, DType::F32);
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let o = Tensor::view(o, 0..4 * COUNT, shape, DType::F32)?;
        let recording = plan.bind(Tensors::new(&q, &k, &v, &o))?;
        Ok(Self { recording, _plan: plan })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // An ordinary wgpu device: the default limits of WebGPU are enough.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    println!("on {}", adapter.get_info().name);

    let buffer = |size, usage| {
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let qkv = buffer(3 * 4 * COUNT, BufferUsages::STORAGE);
    let o = buffer(4 * COUNT, BufferUsages::STORAGE);
    let mean_size = (HEADS * DIM * 4) as u64;
    let mean = buffer(mean_size, BufferUsages::STORAGE | BufferUsages::COPY_SRC);
    let readback = buffer(mean_size, BufferUsages::COPY_DST | BufferUsages::MAP_READ);
    let attention = Attention::new(&device, &queue, &qkv, &o)?;

    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(SHADERS.into()),
    });
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    pass(&device, &module, "make", &[(0, &qkv)], 3 * COUNT / 64, &mut encoder);
    attention.recording.encode(&mut encoder);
    pass(&device, &module, "average", &[(1, &o), (2, &mean)], mean_size / 4 / 64, &mut encoder);
    encoder.copy_buffer_to_buffer(&mean, 0, &readback, 0, mean_size);
    queue.submit([encoder.finish()]);

    readback.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let mapped = readback.get_mapped_range(..)?;
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&mapped);
    let want = expected();
    let worst = got.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max);
    println!("{}", attention.recording.to_string().trim_end());
    println!("mean of the first head: {:.5?}...; differs from plain loops by {worst:.1e} at most", &got[..4]);
    if worst < 1e-5 { Ok(()) } else { Err("the output is wrong".into()) }
}

/// Records one of the program's own compute passes.
fn pass(
    device: &Device,
    module: &wgpu::ShaderModule,
    entry: &str,
    buffers: &[(u32, &wgpu::Buffer)],
    groups: u64,
    encoder: &mut CommandEncoder,
) {
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(entry),
        layout: None,
        module,
        entry_point: Some(entry),
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let entries: Vec<_> = buffers
        .iter()
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding: *binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = pipeline.get_bind_group_layout(0);
    let group =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(groups as u32, 1, 1);
}

/// The same computation in plain loops, in double precision.
fn expected() -> Vec<f64> {
    let x = |i: usize| f64::from((i as u32).wrapping_mul(2_654_435_761) >> 16) / 32768.0 - 1.0;
    let at =
        |tensor: usize, head: usize, n: usize, d: usize| x(tensor * COUNT as usize + (head * TOKENS + n) * DIM + d);
    let mut mean = vec![0.0; HEADS * DIM];
    for head in 0..HEADS {
        for i in 0..TOKENS {
            let seen = (i + 1).saturating_sub(256)..i + 1;
            let score = |j: usize| (0..DIM).map(|d| at(0, head, i, d) * at(1, head, j, d)).sum::<f64>();
            let weights: Vec<f64> = seen.clone().map(|j| (score(j) / (DIM as f64).sqrt()).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..DIM {
                let out: f64 = seen.clone().zip(&weights).map(|(j, w)| w * at(2, head, j, d)).sum();
                mean[head * DIM + d] += out / sum / TOKENS as f64;
            }
        }
    }
    mean
}
