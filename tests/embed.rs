//! The library inside somebody else's wgpu program: it records, and leaves queue, callbacks and error handling alone.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use subquad::gpu::{Context, Workspace};
use subquad::operator;
use subquad::operator::Operator;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::ops::{linear, linformer, softmax};
use subquad::tensor::{DType, HostTensor, Tensor, TensorMap};

/// An adapter as any program asks for it. `None`, with a printed line, where there is none and that is allowed.
fn adapter() -> Option<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    match pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())) {
        Ok(adapter) => Some(adapter),
        Err(error) if std::env::var("SUBQUAD_ALLOW_NO_ADAPTER").is_ok_and(|v| v == "1") => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}; set SUBQUAD_ALLOW_NO_ADAPTER=1 to run the tests that need none"),
    }
}

/// What a program of the caller has: a device with WebGPU's default limits and its queue.
fn open(adapter: &wgpu::Adapter) -> (wgpu::Device, wgpu::Queue) {
    pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap()
}

fn device() -> Option<(wgpu::Device, wgpu::Queue)> {
    adapter().map(|adapter| open(&adapter))
}

const SHAPE: [usize; 4] = [1, 2, 100, 16];
const BYTES: u64 = 2 * 100 * 16 * 4;

fn buffer(device: &wgpu::Device, bytes: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let usage = usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
    device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
}

fn values(seed: u32) -> Vec<f32> {
    (0..BYTES as u32 / 4).map(|i| ((i * 7 + seed * 13) % 31) as f32 / 16.0 - 1.0).collect()
}

/// Everything the library does before an encoder is submitted, for three operators on buffers of the caller.
fn record(ctx: &Context, inputs: [&wgpu::Buffer; 3], outputs: [&wgpu::Buffer; 3], encoder: &mut wgpu::CommandEncoder) {
    let qkv = Qkv::new().heads(2).len(100).dim(16);
    let view = |buffer: &wgpu::Buffer| Tensor::view(buffer, 0..BYTES, SHAPE, DType::F32).unwrap();
    let [q, k, v] = inputs.map(view);
    let outputs = outputs.map(view);
    let mut workspace = Workspace::new();
    let plans = [
        operator::compile(ctx, &softmax::Config::new(qkv)).unwrap(),
        operator::compile(ctx, &linear::Config { mode: Mode::new().segment(32), ..linear::Config::new(qkv) }).unwrap(),
        operator::compile(ctx, &pooled(qkv)).unwrap(),
    ];
    for plan in &plans {
        workspace.reserve(ctx, plan.workspace()).unwrap();
    }
    for (plan, o) in plans.iter().zip(&outputs) {
        let recording = plan.bind(&[("q", &q), ("k", &k), ("v", &v), ("o", o)], &workspace).unwrap();
        recording.encode(encoder);
    }
}

fn pooled(qkv: Qkv) -> linformer::Config {
    let projection = linformer::Projection::Pool(linformer::Pool::Mean);
    linformer::Config { projection, ..linformer::Config::new(qkv, 20) }
}

/// The library is given the queue of another device, so that whatever it did with a queue would fail; and work submitted
/// before is still reported as not done after, since only a submission or a poll of that device would report it.
#[test]
fn recording_touches_neither_queue_nor_callbacks() {
    let (Some((device, queue)), Some((_other, strange_queue))) = (device(), device()) else { return };
    let storage = wgpu::BufferUsages::STORAGE;
    let inputs: Vec<_> = (0..3).map(|_| buffer(&device, BYTES, storage)).collect();
    let outputs: Vec<_> = (0..3).map(|_| buffer(&device, BYTES, storage)).collect();
    for (i, input) in inputs.iter().enumerate() {
        queue.write_buffer(input, 0, bytemuck::cast_slice(&values(i as u32)));
    }
    queue.submit([]);
    let reported = Arc::new(AtomicUsize::new(0));
    let count = reported.clone();
    queue.on_submitted_work_done(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    std::thread::sleep(Duration::from_millis(100));

    let ctx = Context::from_device(device.clone(), strange_queue);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let [a, b, c] = [&outputs[0], &outputs[1], &outputs[2]];
    record(&ctx, [&inputs[0], &inputs[1], &inputs[2]], [a, b, c], &mut encoder);
    drop(ctx);
    assert_eq!(reported.load(Ordering::SeqCst), 0, "the library submitted or polled");

    // The caller's own submission, and what it gives.
    let back = buffer(&device, 3 * BYTES, wgpu::BufferUsages::empty());
    let read = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 3 * BYTES,
        usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
        mapped_at_creation: false,
    });
    for (i, output) in outputs.iter().enumerate() {
        encoder.copy_buffer_to_buffer(output, 0, &back, BYTES * i as u64, BYTES);
    }
    encoder.copy_buffer_to_buffer(&back, 0, &read, 0, 3 * BYTES);
    queue.submit([encoder.finish()]);
    read.map_async(wgpu::MapMode::Read, .., |mapped| mapped.unwrap());
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    assert_eq!(reported.load(Ordering::SeqCst), 1);
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(&read.get_mapped_range(..).unwrap());

    let qkv = Qkv::new().heads(2).len(100).dim(16);
    let all: TensorMap =
        ["q", "k", "v"].into_iter().zip(0..).map(|(n, i)| (n.to_owned(), HostTensor::f32(SHAPE, values(i)))).collect();
    let operators: [Box<dyn Operator>; 3] =
        [Box::new(softmax::Config::new(qkv)), Box::new(linear::Config::new(qkv)), Box::new(pooled(qkv))];
    for (operator, got) in operators.iter().zip(got.chunks_exact(BYTES as usize / 4)) {
        let want = operator.cpu(&all).unwrap().get("o").unwrap().to_f64();
        let got: Vec<f64> = got.iter().map(|x| f64::from(*x)).collect();
        let error = subquad::verify::tolerance::relative_rms(&got, &want);
        assert!(error < 2e-6, "{error:.2e}");
    }
}

/// Errors of the library come back as values, also those that wgpu reports; the caller's handler hears its own alone.
#[test]
fn the_callers_error_handler_is_left_alone() {
    let Some(adapter) = adapter() else { return };
    let (device, queue) = open(&adapter);
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    device.on_uncaptured_error(Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let ctx = Context::from_device(device.clone(), queue);
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);

    let storage = wgpu::BufferUsages::STORAGE;
    let buffers: Vec<_> = (0..6).map(|_| buffer(&device, BYTES, storage)).collect();
    let b: Vec<_> = buffers.iter().collect();
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    record(&ctx, [b[0], b[1], b[2]], [b[3], b[4], b[5]], &mut encoder);
    let large = operator::compile(&ctx, &linear::Config::new(Qkv::new().heads(1).len(1 << 20).dim(256)));
    assert!(large.unwrap_err().to_string().contains("the limit of this device is"));
    let plan = operator::compile(&ctx, &softmax::Config::new(Qkv::new().heads(2).len(100).dim(16))).unwrap();
    let t = Tensor::view(b[0], 0..BYTES, SHAPE, DType::F32).unwrap();
    let twice = plan.bind(&[("q", &t), ("k", &t), ("v", &t), ("o", &t)], &Workspace::new());
    assert!(twice.unwrap_err().to_string().contains("a buffer of its own"));
    // A buffer of another device of the same instance: found by wgpu's own validation, and returned.
    let (stranger, _queue) = open(&adapter);
    let strange = Tensor::view(&buffer(&stranger, BYTES, storage), 0..BYTES, SHAPE, DType::F32).unwrap();
    let [k, v, o] = [b[1], b[2], b[3]].map(|b| Tensor::view(b, 0..BYTES, SHAPE, DType::F32).unwrap());
    let mixed = plan.bind(&[("q", &strange), ("k", &k), ("v", &v), ("o", &o)], &Workspace::new());
    let expected = "softmax: tensor `q`: expected a buffer of the plan's device";
    assert!(mixed.unwrap_err().to_string().starts_with(expected));

    assert!(pollster::block_on(scope.pop()).is_none(), "an error of the library reached the caller's scope");
    assert_eq!(heard.load(Ordering::SeqCst), 0);
    // An error of the caller, as ever.
    let _ = device.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 16,
        usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    assert_eq!(heard.load(Ordering::SeqCst), 1, "the caller's handler is gone");
}

/// Clones share pipelines; a context made apart, on the same device or another, has its own.
#[test]
fn clones_of_a_context_share_pipelines() {
    let Some((device, queue)) = device() else { return };
    let config = softmax::Config::new(Qkv::new().heads(2).len(100).dim(16));
    let first = Context::from_device(device.clone(), queue.clone());
    let clone = first.clone();
    operator::compile(&first, &config).unwrap();
    let made = first.kernels().len();
    assert!(made > 0);
    operator::compile(&clone, &config).unwrap();
    assert_eq!(clone.kernels().len(), made, "a pipeline was made twice");
    assert_eq!(Context::from_device(device, queue).kernels().len(), 0);
}

/// The examples check their own results.
/// Only an adapter says which matrices its units multiply: a context that is given the adapter too uses them, if the device has
/// their features.
#[test]
fn a_context_made_with_the_adapter_uses_its_matrix_units() {
    let Some(adapter) = adapter() else { return };
    let units = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP;
    let open = |features| {
        let descriptor = wgpu::DeviceDescriptor {
            required_features: features,
            required_limits: adapter.limits(),
            // SAFETY: the device runs what the library records.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        pollster::block_on(adapter.request_device(&descriptor)).unwrap()
    };
    let (device, queue) = open(wgpu::Features::empty());
    assert_eq!(Context::from_device_of(&adapter, device, queue).caps().matrix, None);
    if !adapter.features().contains(units) {
        eprintln!("SKIPPED: {} has no matrix units", adapter.get_info().name);
        return;
    }
    let (device, queue) = open(units);
    let without = Context::from_device(device.clone(), queue.clone());
    let with = Context::from_device_of(&adapter, device, queue);
    let tier = with.caps().tier();
    assert!(with.caps().matrix.is_none_or(|matrix| tier.ends_with(&format!("+matrix{}", matrix.tile))), "{tier}");
    let config = softmax::Config::new(Qkv::new().heads(2).len(100).dim(16).dtype(DType::F16));
    let takes = |ctx: &Context| config.program(ctx.caps()).unwrap().variant().starts_with("matrix units");
    assert_eq!([takes(&without), takes(&with)], [false, with.caps().matrix.is_some()]);
}

#[test]
fn the_examples_run() {
    if device().is_none() {
        return;
    }
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    for (name, args, line) in [
        ("embed", &[][..], "differs from plain loops by"),
        ("two_layers", &["300"], "linformer_attention"),
        ("mamba2", &["100"], "ssd_output"),
    ] {
        let program = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
        let output =
            Command::new(&program).args(args).output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains(line), "{name}: {text}");
    }
}
