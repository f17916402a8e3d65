//! Uploads tensors, runs schedules and reads results back. This is the only module that submits to a queue or waits for
//! a device.

use std::borrow::Cow;
#[cfg(not(target_arch = "wasm32"))]
use std::time::Instant;

use futures_intrusive::channel::shared::oneshot_channel;

use super::buffer;
use super::context::Context;
use super::schedule::Schedule;
#[cfg(not(target_arch = "wasm32"))]
use super::timing::Lap;
use super::timing::{Span, Timer};
use crate::error::Error;
use crate::tensor::{DType, HostTensor, Shape, Tensor, Values};

const USAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Refuses a tensor that exceeds the device's limits, before a buffer is created.
fn check_size(ctx: &Context, label: &str, shape: &Shape, dtype: DType) -> Result<(), Error> {
    // A plan binds a tensor in parts if one binding cannot hold it.
    let limit = ctx.caps().limits.max_buffer_size;
    let needed = shape.checked_count().and_then(|n| n.checked_mul(dtype.size() as u64)).unwrap_or(u64::MAX);
    if needed > limit {
        return Err(Error::Limit { op: "buffer".into(), what: format!("tensor `{label}` (bytes)"), needed, limit });
    }
    Ok(())
}

/// Copies a host tensor into a new buffer. The buffer is filled while it is mapped.
///
/// # Errors
/// [`Error::Limit`] if it exceeds the device's limits, [`Error::Device`] if there is no memory for it.
pub fn upload(ctx: &Context, label: &str, tensor: &HostTensor) -> Result<Tensor, Error> {
    check_size(ctx, label, tensor.shape(), tensor.dtype())?;
    let buffer = buffer::filled(ctx, label, tensor.bytes(), USAGE)?;
    let bytes = tensor.bytes().len() as u64;
    Ok(Tensor::view(&buffer, 0..bytes, tensor.shape().clone(), tensor.dtype())?.of(ctx.origin()))
}

/// Creates a tensor in a new buffer, zeroed by wgpu.
///
/// # Errors
/// [`Error::Limit`] if it exceeds the device's limits, [`Error::Device`] if there is no memory for it.
pub fn empty(ctx: &Context, label: &str, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor, Error> {
    let shape = shape.into();
    check_size(ctx, label, &shape, dtype)?;
    let bytes = shape.count() as u64 * dtype.size() as u64;
    let buffer = buffer::make(ctx, label, bytes, USAGE)?;
    Ok(Tensor::view(&buffer, 0..bytes, shape, dtype)?.of(ctx.origin()))
}

/// Submits a schedule in parts that are short enough for the watchdog, and waits for each. `progress` receives the
/// completed fraction.
///
/// # Errors
/// [`Error::Device`] if the device is lost or refuses.
#[cfg(not(target_arch = "wasm32"))]
pub fn run(ctx: &Context, schedule: &Schedule, progress: &mut dyn FnMut(f64)) -> Result<(), Error> {
    let total = schedule.cost().flops.max(1.0);
    let mut done = 0.0;
    for submission in schedule.submissions(ctx.caps().dispatch_flops) {
        let mut encoder =
            ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("subquad") });
        schedule.encode_submission(&mut encoder, &submission);
        submit(ctx, encoder)?;
        done += submission.cost.flops;
        progress((done / total).min(1.0));
    }
    Ok(())
}

/// Submits one encoder and waits for it.
///
/// # Errors
/// [`Error::Device`] if the device is lost, out of memory, or refuses a command.
#[cfg(not(target_arch = "wasm32"))]
pub fn submit(ctx: &Context, encoder: wgpu::CommandEncoder) -> Result<(), Error> {
    submit_timed(ctx, encoder).map(drop)
}

/// Submits an empty list and waits, so that earlier writes to buffers are complete.
///
/// # Errors
/// [`Error::Device`] if the device is lost.
#[cfg(not(target_arch = "wasm32"))]
pub fn flush(ctx: &Context) -> Result<(), Error> {
    submit(ctx, ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("flush") }))
}

/// Submits one encoder and waits for it. Returns the seconds from the submission to the end of the wait.
#[cfg(not(target_arch = "wasm32"))]
fn submit_timed(ctx: &Context, encoder: wgpu::CommandEncoder) -> Result<f64, Error> {
    let validation = ctx.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let memory = ctx.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let commands = encoder.finish();
    let start = Instant::now();
    let index = ctx.queue().submit([commands]);
    // The index of a lost device is not one to wait for.
    let lost = ctx.check_lost();
    let polled = ctx.device().poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None });
    let seconds = start.elapsed().as_secs_f64();
    let memory = super::pipeline::pop(memory);
    let validation = super::pipeline::pop(validation);
    lost?;
    if let Some(error) = memory.or(validation) {
        return Err(Error::device(error));
    }
    polled.map_err(|e| Error::device(format!("waiting for {}: {e}", ctx.info().name)))?;
    ctx.check_lost()?;
    Ok(seconds)
}

/// Runs a schedule and times it by the host's clock and, if the device has timestamps, by these. The schedule runs
/// `repeats` times in one pass. If one run must be split for the watchdog, it runs once, with one pass per part.
/// Encoding before and reading back after the passes are not timed.
///
/// # Errors
/// [`Error::Device`] if the device is lost or refuses.
#[cfg(not(target_arch = "wasm32"))]
pub fn time(ctx: &Context, schedule: &Schedule, repeats: usize) -> Result<Lap, Error> {
    let parts = schedule.submissions(ctx.caps().dispatch_flops);
    // An empty schedule still gets a pass, which measures the cost of the timestamps.
    let passes = parts.len().max(1);
    let mut timer = Timer::new(ctx, passes);
    let mut wall = 0.0;
    let times = if passes > 1 { 1 } else { repeats };
    for part in 0..passes {
        let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("timed") });
        {
            let timestamp_writes = timer.as_mut().and_then(|timer| timer.stamp("timed"));
            let descriptor = wgpu::ComputePassDescriptor { label: Some("timed"), timestamp_writes };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            if let Some(part) = parts.get(part) {
                (0..times).for_each(|_| schedule.encode_submission_in(&mut pass, part));
            }
        }
        if let Some(timer) = timer.as_ref().filter(|_| part + 1 == passes) {
            timer.resolve(&mut encoder);
        }
        wall += submit_timed(ctx, encoder)?;
    }
    let spans = timer.map(|timer| pollster::block_on(read_timer(ctx, &timer))).transpose()?;
    let gpu = spans.as_ref().and_then(|spans| spans.iter().map(|span| span.nanoseconds).sum::<Option<f64>>());
    let rejected = spans.is_some() && gpu.is_none();
    let each = 1.0 / times as f64;
    Ok(Lap { gpu: gpu.map(|nanoseconds| nanoseconds * 1e-9 * each), rejected, passes, wall: wall * each })
}

/// Reads a tensor back. In a browser the mapping resolves by itself; elsewhere use [`read_blocking`], which also polls.
///
/// # Errors
/// [`Error::Device`] if the device is lost.
pub async fn read(ctx: &Context, tensor: &Tensor) -> Result<HostTensor, Error> {
    // A copy starts on a multiple of 4 bytes.
    let before = tensor.offset() % 4;
    let span = (before + tensor.span_bytes()).next_multiple_of(4);
    let collect = |mapped: &[u8]| {
        let bytes = gather(tensor, &mapped[before as usize..]);
        let bytes = &bytes[..];
        // The mapped bytes may be unaligned, so they are collected element by element.
        match tensor.dtype() {
            DType::F32 => Values::F32(bytemuck::pod_collect_to_vec(bytes).into()),
            DType::F16 => Values::F16(bytemuck::pod_collect_to_vec(bytes).into()),
            DType::I64 => Values::I64(bytemuck::pod_collect_to_vec(bytes)),
            DType::I32 => Values::I32(bytemuck::pod_collect_to_vec(bytes)),
            DType::U32 => Values::U32(bytemuck::pod_collect_to_vec(bytes)),
            DType::U8 => Values::U8(bytes.to_vec()),
        }
    };
    let values = read_mapped(ctx, tensor.buffer(), tensor.offset() - before, span, collect).await?;
    Ok(HostTensor::new(tensor.shape().clone(), values))
}

/// The values of a tensor one behind the other, from those of its span.
fn gather<'b>(tensor: &Tensor, span: &'b [u8]) -> Cow<'b, [u8]> {
    let Some(strides) = tensor.strides() else { return Cow::Borrowed(&span[..tensor.bytes() as usize]) };
    let (dims, size) = (tensor.shape().dims(), tensor.dtype().size());
    let row = dims.last().copied().unwrap_or(1);
    let mut values = Vec::with_capacity(tensor.bytes() as usize);
    for mut rest in 0..tensor.shape().count() / row {
        let mut at = 0;
        for (length, stride) in dims.iter().zip(strides).rev().skip(1) {
            at += rest % length * stride;
            rest /= length;
        }
        values.extend_from_slice(&span[at * size..][..row * size]);
    }
    Cow::Owned(values)
}

/// Copies a part of a buffer to one that can be mapped, and gives its bytes to `collect`.
async fn read_mapped<T>(
    ctx: &Context,
    buffer: &wgpu::Buffer,
    offset: u64,
    size: u64,
    collect: impl FnOnce(&[u8]) -> T,
) -> Result<T, Error> {
    let device = ctx.device();
    let staging = buffer::make(ctx, "readback", size, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ)?;
    // A lost device leaves a buffer that is none, of which mapping tells first.
    let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
    encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, Some(size));
    ctx.queue().submit([encoder.finish()]);
    let (sender, receiver) = oneshot_channel();
    staging.map_async(wgpu::MapMode::Read, ..size, move |result| {
        // A failed send means that the receiver was dropped: the result is no longer needed.
        let _ = sender.send(result);
    });
    if let Some(error) = super::pipeline::pop(scope) {
        return Err(Error::device(format!("reading back: is the device lost or destroyed? {error}")));
    }
    #[cfg(not(target_arch = "wasm32"))]
    device
        .poll(wgpu::PollType::wait_indefinitely())
        .map_err(|e| Error::device(format!("waiting for {}: {e}", ctx.info().name)))?;
    let mapped = receiver.receive().await.ok_or_else(|| Error::Device("the map callback was dropped".into()))?;
    mapped.map_err(|e| Error::device(format!("mapping a buffer for reading: {e}")))?;
    let view =
        staging.get_mapped_range(..size).map_err(|e| Error::device(format!("mapping a buffer for reading: {e}")))?;
    Ok(collect(&view))
}

/// Reads a tensor back and waits for it.
///
/// # Errors
/// The errors of [`read`].
#[cfg(not(target_arch = "wasm32"))]
pub fn read_blocking(ctx: &Context, tensor: &Tensor) -> Result<HostTensor, Error> {
    pollster::block_on(read(ctx, tensor))
}

/// The times of the passes that a timer recorded. Their encoder, including [`Timer::resolve`], must have been
/// submitted.
///
/// # Errors
/// The errors of [`read`].
pub async fn read_timer(ctx: &Context, timer: &Timer) -> Result<Vec<Span>, Error> {
    let buffer = timer.resolved();
    let collect = |mapped: &[u8]| bytemuck::pod_collect_to_vec(mapped);
    let stamps: Vec<u64> = read_mapped(ctx, buffer, 0, buffer.size(), collect).await?;
    Ok(timer.spans(&stamps, ctx.queue().get_timestamp_period()))
}

/// Overwrites the start of a contiguous tensor with these bytes, before whatever is submitted next.
pub fn overwrite(ctx: &Context, tensor: &Tensor, bytes: &[u8]) {
    ctx.queue().write_buffer(tensor.buffer(), tensor.offset(), bytes);
}

/// Copies a contiguous tensor to the start of a longer one, before whatever is submitted next.
pub fn copy(ctx: &Context, from: &Tensor, to: &Tensor) {
    let label = Some("copy");
    let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label });
    encoder.copy_buffer_to_buffer(from.buffer(), from.offset(), to.buffer(), to.offset(), from.binding_bytes());
    ctx.queue().submit([encoder.finish()]);
}

/// Fills a buffer with one byte value. Tests use it to poison outputs and workspace.
pub fn fill(ctx: &Context, buffer: &wgpu::Buffer, byte: u8) {
    ctx.queue().write_buffer(buffer, 0, &vec![byte; buffer.size() as usize]);
}
