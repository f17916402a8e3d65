//! What does not fit is said in one sentence: a workspace, another device, a missing feature, a lost device.

use subquad::gpu::{Context, Workspace, readback};
use subquad::operator::Plan;
use subquad::operator::qkv::Qkv;
use subquad::ops::{linear, softmax};
use subquad::tensor::{DType, HostTensor, Tensor};

use crate::open;

/// A device of the same instance as another, as an application with two has them.
fn two_devices() -> Option<[(wgpu::Device, wgpu::Queue); 2]> {
    open()?;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())).unwrap();
    let device = |_| pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
    Some([0, 1].map(device))
}

const SHAPE: [usize; 4] = [1, 2, 3, 8];

fn four(ctx: &Context) -> [Tensor; 4] {
    [0; 4].map(|_| readback::empty(ctx, "t", SHAPE, DType::F32).unwrap())
}

#[test]
fn a_workspace_that_was_not_reserved_is_named_with_the_call() {
    let Some(ctx) = open() else { return };
    let plan = Plan::new(&ctx, softmax::Config::new(Qkv::new().heads(2).len(3).dim(8))).unwrap();
    let [q, k, v, o] = four(&ctx);
    let tensors = softmax::Tensors::new(&q, &k, &v, &o);
    let mut workspace = Workspace::new();
    let text = plan.bind_in(tensors, &workspace).unwrap_err().to_string();
    let expected = "softmax: workspace `partial outputs`: expected 288 bytes, found 0; call plan.reserve(&mut workspace) \
                    before it is bound";
    assert_eq!(text, expected);
    plan.reserve(&mut workspace).unwrap();
    let _recording = plan.bind_in(tensors, &workspace).unwrap();
}

/// Devices of two instances have the same number in wgpu, and so have their buffers: what was made here knows its context.
#[test]
fn what_another_context_made_is_refused() {
    let (Some(ctx), Some(other)) = (open(), open()) else { return };
    let plan = Plan::new(&ctx, softmax::Config::new(Qkv::new().heads(2).len(3).dim(8))).unwrap();
    let [q, k, v, o] = four(&ctx);
    let [_, strange, ..] = four(&other);
    let mut workspace = Workspace::new();
    plan.reserve(&mut workspace).unwrap();
    let text = plan.bind_in(softmax::Tensors::new(&q, &strange, &v, &o), &workspace).unwrap_err().to_string();
    let expected = "softmax: tensor `k`: expected a tensor of the plan's context, found one of another context (clone a \
                    Context to share it)";
    assert_eq!(text, expected);

    let elsewhere = Plan::new(&other, plan.config().clone()).unwrap();
    let expected = "workspace: `reserve`: expected the context of its buffers, found another context";
    assert_eq!(elsewhere.reserve(&mut workspace).unwrap_err().to_string(), expected);
    let mut strange = Workspace::new();
    elsewhere.reserve(&mut strange).unwrap();
    let text = plan.bind_in(softmax::Tensors::new(&q, &k, &v, &o), &strange).unwrap_err().to_string();
    let expected = "softmax: `workspace`: expected one of the plan's context, found one of another context (clone a Context \
                    to share it)";
    assert_eq!(text, expected);
    // A clone is the same context.
    let clone = Plan::new(&ctx.clone(), plan.config().clone()).unwrap();
    let _recording = clone.bind_in(softmax::Tensors::new(&q, &k, &v, &o), &workspace).unwrap();
}

/// Buffers of the caller, of which wgpu knows the device: the tensor is named in one line.
#[test]
fn a_callers_buffer_of_another_device_is_named() {
    let Some([(device, queue), (stranger, _)]) = two_devices() else { return };
    let ctx = Context::from_device(device.clone(), queue);
    let plan = Plan::new(&ctx, softmax::Config::new(Qkv::new().heads(2).len(3).dim(8))).unwrap();
    let make = |device: &wgpu::Device| {
        let usage = wgpu::BufferUsages::STORAGE;
        let descriptor = wgpu::BufferDescriptor { label: None, size: 192, usage, mapped_at_creation: false };
        device.create_buffer(&descriptor)
    };
    let view = |buffer: &wgpu::Buffer| Tensor::view(buffer, 0..192, SHAPE, DType::F32).unwrap();
    let [q, k, o] = [0; 3].map(|_| view(&make(&device)));
    let v = view(&make(&stranger));
    let text = plan.bind(softmax::Tensors::new(&q, &k, &v, &o)).unwrap_err().to_string();
    let expected =
        "softmax: tensor `v`: expected a buffer of the plan's device, found a destroyed one, or one of another device";
    assert_eq!(text, expected);
    let gone = make(&device);
    gone.destroy();
    let text = plan.bind(softmax::Tensors::new(&q, &view(&gone), &q, &o)).unwrap_err().to_string();
    assert_eq!(text, expected.replace("`v`", "`k`"));
}

#[test]
fn a_missing_feature_is_named() {
    let Some([(device, queue), _]) = two_devices() else { return };
    let ctx = Context::from_device(device, queue);
    let half = softmax::Config::new(Qkv::new().heads(2).len(3).dim(8).dtype(DType::F16));
    let text = Plan::new(&ctx, half).unwrap_err().to_string();
    assert_eq!(text, "softmax: f16 storage needs the device feature SHADER_F16, which this device was made without");
}

/// A text of one line that says what a device is.
fn is_lost(what: &str, result: Result<(), subquad::Error>) {
    let text = result.expect_err(what).to_string();
    assert!(text.starts_with("device: ") && text.contains("lost") && !text.contains('\n'), "{what}: {text}");
}

/// Every entry gives an error, none panics, and recording goes on.
#[test]
fn a_lost_device_is_an_error_everywhere() {
    let Some(ctx) = open() else { return };
    let plan = Plan::new(&ctx, softmax::Config::new(Qkv::new().heads(2).len(3).dim(8))).unwrap();
    let [q, k, v, o] = four(&ctx);
    let tensors = softmax::Tensors::new(&q, &k, &v, &o);
    let recording = plan.bind(tensors).unwrap();
    ctx.device().destroy();
    // wgpu tells of a device that was destroyed when it is polled, of one that was lost at once.
    let _ = ctx.device().poll(wgpu::PollType::Poll);
    is_lost("upload", readback::upload(&ctx, "t", &HostTensor::zeros(SHAPE, DType::F32)).map(drop));
    is_lost("empty", readback::empty(&ctx, "t", SHAPE, DType::F32).map(drop));
    is_lost("plan", Plan::new(&ctx, linear::Config::new(Qkv::new().heads(1).len(9).dim(8))).map(drop));
    is_lost("bind", plan.bind(tensors).map(drop));
    is_lost("reserve", plan.reserve(&mut Workspace::new()));
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    recording.encode(&mut encoder);
    is_lost("submit", readback::submit(&ctx, encoder));
    is_lost("read", readback::read_blocking(&ctx, &o).map(drop));
}

/// A caller's device does not report its loss to the library; the next allocation on it fails.
#[test]
fn a_lost_device_of_the_caller_is_an_error_where_memory_is_needed() {
    let Some([(device, queue), _]) = two_devices() else { return };
    let ctx = Context::from_device(device.clone(), queue);
    let plan = Plan::new(&ctx, softmax::Config::new(Qkv::new().heads(2).len(3).dim(8))).unwrap();
    let [q, k, v, o] = four(&ctx);
    let tensors = softmax::Tensors::new(&q, &k, &v, &o);
    let recording = plan.bind(tensors).unwrap();
    device.destroy();
    is_lost("upload", readback::upload(&ctx, "t", &HostTensor::zeros(SHAPE, DType::F32)).map(drop));
    is_lost("bind", plan.bind(tensors).map(drop));
    // Pipelines and buffers that wgpu makes of a lost device are of no use, but no panic either.
    let _ = Plan::new(&ctx, linear::Config::new(Qkv::new().heads(1).len(9).dim(8))).map(drop);
    let _ = readback::empty(&ctx, "t", SHAPE, DType::F32).map(drop);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    recording.encode(&mut encoder);
    let _ = readback::submit(&ctx, encoder);
    is_lost("read", readback::read_blocking(&ctx, &o).map(drop));
}
