//! A whole Mamba-2 mixer in one encoder. Its input is the output of `in_proj`; its output is the input of `out_proj`.
//!
//! ```text
//! [z, x, B, C, dt] = a token's row of the projection
//! [x, B, C] = SiLU(conv1d([x, B, C]))
//! y = ssd(x, dt, B, C) SiLU(z)                    with a_log, d and dt_bias
//! y = y / sqrt(mean y^2 + eps) weight             over the channels of a group
//! ```
//!
//! The convolution expects `[B, C, N]`, with time as the fastest axis; ssd expects `[B, N, H, P]`, with channels as the
//! fastest. The library has no transpose, so the program transposes with its own kernel before and after the
//! convolution. The shapes are those of mamba2-130m.
//!
//! ```text
//! cargo run --release --example mamba2 [LENGTH]
//! ```

use std::error::Error;

use subquad::gpu::{AdapterRequest, Context, pack, readback};
use subquad::operator::Operator;
use subquad::operator::channels::Channels;
use subquad::ops::primitives::{Tokens, gated_norm};
use subquad::ops::{conv1d, ssd};
use subquad::tensor::{DType, HostTensor, Layout, Shape, Tensor, TensorMap};
use subquad::verify;
use wgpu::util::DeviceExt;
use wgpu::{BindGroup, BufferUsages, CommandEncoder, ComputePipeline, Device};

const HEADS: usize = 24;
const DIM: usize = 64;
const GROUPS: usize = 1;
const STATES: usize = 128;
const TAPS: usize = 4;

/// Channels of x and z.
const INNER: usize = HEADS * DIM;
/// Channels of b, and of c.
const SHARED: usize = GROUPS * STATES;
/// Convolved channels: x, b and c.
const MIXED: usize = INNER + 2 * SHARED;
/// Columns of the projection: z, x, b, c, dt.
const WIDTH: usize = INNER + MIXED + HEADS;

/// The program's own shaders: they copy a part of a wider matrix, directly or transposed.
const SHADERS: &str = "
@group(0) @binding(0) var<storage, read> wide: array<f32>;
@group(0) @binding(1) var<storage, read_write> own: array<f32>;
@group(0) @binding(2) var<uniform> part: vec4<u32>; // rows, columns, from row to row, first element

var<workgroup> tile: array<f32, 272>; // 16 rows of 17

@compute @workgroup_size(16, 16)
fn copy(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.y < part.x && id.x < part.y) {
        own[id.y * part.y + id.x] = wide[part.w + id.y * part.z + id.x];
    }
}

@compute @workgroup_size(16, 16)
fn transpose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let first = group.yx * 16u; // row and column
    var at = first + local.yx;
    if (at.x < part.x && at.y < part.y) {
        tile[local.y * 17u + local.x] = wide[part.w + at.x * part.z + at.y];
    }
    workgroupBarrier();
    at = first + local.xy;
    if (at.x < part.x && at.y < part.y) {
        own[at.y * part.x + at.x] = tile[local.x * 17u + local.y];
    }
}
";

/// A pipeline of [`SHADERS`].
struct Cutter {
    pipeline: ComputePipeline,
}

/// One copy by a [`Cutter`].
struct Cut {
    pipeline: ComputePipeline,
    group: BindGroup,
    groups: [u32; 2],
}

impl Cutter {
    fn new(device: &Device, entry: &str) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(SHADERS.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { pipeline }
    }

    /// Copies rows and columns from a matrix with row stride `stride`, starting at element `first`.
    fn cut(&self, device: &Device, wide: &Tensor, own: &Tensor, [rows, columns, stride, first]: [usize; 4]) -> Cut {
        let part = [rows, columns, stride, first].map(|x| x as u32);
        let part = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: None,
            contents: bytemuck::cast_slice(&part),
            usage: BufferUsages::UNIFORM,
        });
        let layout = self.pipeline.get_bind_group_layout(0);
        let entries = [(0, wide.buffer()), (1, own.buffer()), (2, &part)]
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
        let group =
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
        let groups = [columns, rows].map(|x| x.div_ceil(16) as u32);
        Cut { pipeline: self.pipeline.clone(), group, groups }
    }
}

/// Records one of the program's own compute passes.
fn encode(cuts: &[Cut], encoder: &mut CommandEncoder) {
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    for cut in cuts {
        pass.set_pipeline(&cut.pipeline);
        pass.set_bind_group(0, &cut.group, &[]);
        pass.dispatch_workgroups(cut.groups[0], cut.groups[1], 1);
    }
}

/// The operators of the mixer, in order.
struct Block {
    conv: conv1d::Config,
    scan: ssd::Config,
    norm: gated_norm::Config,
}

impl Block {
    fn new(length: usize) -> Self {
        let conv = conv1d::Config::new(Channels::new(1, MIXED, length), TAPS);
        let scan = ssd::Config::new(length, HEADS, DIM, STATES);
        // A row of the norm has the channels of one group. ssd already applies the gate.
        let rows = Tokens::new(1, GROUPS, length).layout(Layout::Bnhd);
        let norm = gated_norm::Config::new(rows, INNER / GROUPS);
        Self {
            conv: conv1d::Config { bias: true, ..conv },
            scan: ssd::Config { groups: GROUPS, a_log: true, d: true, z: true, dt_bias: true, ..scan },
            norm: gated_norm::Config { weight: gated_norm::Weight::PerHead, gate: None, eps: 1e-5, ..norm },
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let length: usize = std::env::args().nth(1).map_or(Ok(512), |word| word.parse())?;
    let ctx = Context::open(&AdapterRequest { software: true, ..AdapterRequest::default() })?;
    println!("on {}", ctx.info().name);

    let block = Block::new(length);
    let weights = weights();
    let projected = made_up([1, length, WIDTH], 1, |x| x);
    let got = on_gpu(&ctx, &block, &projected, &weights)?;
    let want = on_cpu(&block, &projected, &weights)?;
    let error = verify::tolerance::relative_rms(&got.to_f64(), &want.to_f64());
    println!("differs from the cpu backend by {error:.1e} (relative RMS)");
    if error < 1e-5 { Ok(()) } else { Err("the output is wrong".into()) }
}

/// Runs the mixer in one encoder.
fn on_gpu(
    ctx: &Context,
    Block { conv, scan, norm }: &Block,
    projected: &HostTensor,
    weights: &TensorMap,
) -> Result<HostTensor, Box<dyn Error>> {
    let (conv_plan, scan_plan, norm_plan) = (conv.plan(ctx)?, scan.plan(ctx)?, norm.plan(ctx)?);

    let n = conv.shape.length;
    let empty = |name, shape: [usize; 4]| readback::empty(ctx, name, shape, DType::F32);
    let columns = |name| readback::empty(ctx, name, conv.shape.shape(), DType::F32);
    let (before, after) = (columns("before")?, columns("after")?);
    let (x, z, y) = (empty("x", [1, n, HEADS, DIM])?, empty("z", [1, n, HEADS, DIM])?, empty("y", [1, n, HEADS, DIM])?);
    let (b, c) = (empty("b", [1, n, GROUPS, STATES])?, empty("c", [1, n, GROUPS, STATES])?);
    let dt = readback::empty(ctx, "dt", [1, n, HEADS], DType::F32)?;
    let output = empty("output", [1, n, GROUPS, INNER / GROUPS])?;
    // The output of ssd, viewed as rows of the norm.
    let rows = Tensor::view(y.buffer(), y.offset()..y.offset() + y.bytes(), output.shape().clone(), DType::F32)?;

    let packed = |slot| readback::upload(ctx, "weights", &pack::pack(&slot, weights));
    let (taps, rates) = (packed(conv.weights_slot())?, packed(scan.weights_slot())?);
    let scale = readback::upload(ctx, "scale", weights.get("scale").ok_or("no scale")?)?;
    let input = readback::upload(ctx, "projected", projected)?;

    let device = ctx.device();
    let (copy, transpose) = (Cutter::new(device, "copy"), Cutter::new(device, "transpose"));
    let split = [
        copy.cut(device, &input, &z, [n, INNER, WIDTH, 0]),
        transpose.cut(device, &input, &before, [n, MIXED, WIDTH, INNER]),
        copy.cut(device, &input, &dt, [n, HEADS, WIDTH, INNER + MIXED]),
    ];
    let back = [
        transpose.cut(device, &after, &x, [INNER, n, n, 0]),
        transpose.cut(device, &after, &b, [SHARED, n, n, INNER * n]),
        transpose.cut(device, &after, &c, [SHARED, n, n, (INNER + SHARED) * n]),
    ];
    let conv = conv1d::Tensors::new(&before, &taps, &after);
    let conv = conv_plan.bind(conv)?;
    let scan = ssd::Tensors {
        x: &x,
        dt: &dt,
        weights: &rates,
        b: &b,
        c: &c,
        z: Some(&z),
        y: &y,
        cu_seqlens: None,
        state: None,
    };
    let scan = scan_plan.bind(scan)?;
    let norm = gated_norm::Tensors { weight: Some(&scale), ..gated_norm::Tensors::new(&rows, &output) };
    let norm = norm_plan.bind(norm)?;
    print!("{conv}{scan}{norm}");

    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encode(&split, &mut encoder);
    conv.encode(&mut encoder);
    encode(&back, &mut encoder);
    scan.encode(&mut encoder);
    norm.encode(&mut encoder);
    readback::submit(ctx, encoder)?;
    Ok(readback::read_blocking(ctx, &output)?)
}

/// The same mixer on the cpu backend; plain loops copy and transpose.
fn on_cpu(block: &Block, projected: &HostTensor, weights: &TensorMap) -> Result<HostTensor, Box<dyn Error>> {
    let n = block.conv.shape.length;
    let values = projected.to_f32();
    let part = |shape: Shape, first: usize, count: usize| {
        HostTensor::f32(shape, values.chunks(WIDTH).flat_map(|row| &row[first..first + count]).copied().collect())
    };
    let z = part([1, n, HEADS, DIM].into(), 0, INNER);
    let dt = part([1, n, HEADS].into(), INNER + MIXED, HEADS);
    let channel = |at: usize| values.iter().skip(INNER + at).step_by(WIDTH).copied();
    let mixed = HostTensor::f32(block.conv.shape.shape(), (0..MIXED).flat_map(channel).collect());
    let mixed = run(&block.conv, weights, [("x", mixed)])?.to_f32();

    let tokens = |shape: Shape, first: usize, count: usize| {
        let of = |token| (first..first + count).map(move |channel| channel * n + token);
        HostTensor::f32(shape, (0..n).flat_map(of).map(|at| mixed[at]).collect())
    };
    let x = tokens([1, n, HEADS, DIM].into(), 0, INNER);
    let b = tokens([1, n, GROUPS, STATES].into(), INNER, SHARED);
    let c = tokens([1, n, GROUPS, STATES].into(), INNER + SHARED, SHARED);
    let y = run(&block.scan, weights, [("x", x), ("b", b), ("c", c), ("z", z), ("dt", dt)])?;
    // The norm's own weight, in place of the one of the convolution.
    let scale = weights.get("scale").ok_or("no scale")?.clone();
    run(&block.norm, weights, [("x", y.reshape([1, n, GROUPS, INNER / GROUPS])), ("weight", scale)])
}

/// An operator's output on the cpu backend.
fn run<const K: usize>(
    operator: &dyn Operator,
    weights: &TensorMap,
    inputs: [(&str, HostTensor); K],
) -> Result<HostTensor, Box<dyn Error>> {
    let weights = weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone()));
    let inputs = inputs.into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
    let mut outputs = operator.cpu(&weights.chain(inputs).collect())?;
    outputs.remove("y").or_else(|| outputs.remove("o")).ok_or_else(|| "no output".into())
}

/// Weights as models initialise them.
fn weights() -> TensorMap {
    [
        ("weight", made_up([MIXED, TAPS], 2, |x| 0.5 * x)),
        ("bias", made_up([MIXED], 3, |x| 0.1 * x)),
        ("a_log", made_up([HEADS], 4, |x| (8.5 + 7.5 * x).ln())),
        ("d", made_up([HEADS], 5, |x| 1.0 + 0.1 * x)),
        ("dt_bias", made_up([HEADS], 6, |x| x - 4.0)),
        ("scale", made_up([GROUPS, INNER / GROUPS], 7, |x| 1.0 + 0.1 * x)),
    ]
    .map(|(name, tensor)| (name.to_owned(), tensor))
    .into_iter()
    .collect()
}

/// A sequence of values between -1 and 1.
fn made_up(shape: impl Into<Shape>, seed: u32, of: impl Fn(f32) -> f32) -> HostTensor {
    let shape = shape.into();
    let value = |i: u32| (i.wrapping_add(seed << 20).wrapping_mul(2_654_435_761) >> 16) as f32 / 32768.0 - 1.0;
    let values = (0..shape.count() as u32).map(|i| of(value(i))).collect();
    HostTensor::f32(shape, values)
}
