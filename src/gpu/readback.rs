//! The edge: the only file that submits to a queue or waits for a device. Uploads, runs, reads back.

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

/// Refuses a tensor that passes the device's limits, before a buffer is asked for.
fn check_size(ctx: &Context, label: &str, shape: &Shape, dtype: DType) -> Result<(), Error> {
    // Bound in parts where one binding cannot hold it.
    let limit = ctx.caps().limits.max_buffer_size;
    let needed = shape.checked_count().and_then(|n| n.checked_mul(dtype.size() as u64)).unwrap_or(u64::MAX);
    if needed > limit {
        return Err(Error::Limit { op: "buffer".into(), what: format!("tensor `{label}` (bytes)"), needed, limit });
    }
    Ok(())
}

/// Puts a tensor of the host into a buffer of its own, filled while it is mapped.
///
/// # Errors
/// [`Error::Limit`] if it passes the device's limits, [`Error::Device`] if there is no memory for it.
pub fn upload(ctx: &Context, label: &str, tensor: &HostTensor) -> Result<Tensor, Error> {
    check_size(ctx, label, tensor.shape(), tensor.dtype())?;
    let buffer = buffer::filled(ctx, label, tensor.bytes(), USAGE)?;
    let bytes = tensor.bytes().len() as u64;
    Tensor::view(&buffer, 0..bytes, tensor.shape().clone(), tensor.dtype())
}

/// A tensor in a buffer of its own, zeroed by wgpu.
///
/// # Errors
/// [`Error::Limit`] if it passes the device's limits, [`Error::Device`] if there is no memory for it.
pub fn empty(ctx: &Context, label: &str, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor, Error> {
    let shape = shape.into();
    check_size(ctx, label, &shape, dtype)?;
    let bytes = shape.count() as u64 * dtype.size() as u64;
    let buffer = buffer::make(ctx, label, bytes, USAGE)?;
    Tensor::view(&buffer, 0..bytes, shape, dtype)
}

/// Submits a schedule, cut for the watchdog, and waits for each part. `progress` hears the share that is done.
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

/// Submits nothing and waits, so that whatever was written to buffers before is there.
///
/// # Errors
/// [`Error::Device`] if the device is lost.
#[cfg(not(target_arch = "wasm32"))]
pub fn flush(ctx: &Context) -> Result<(), Error> {
    submit(ctx, ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("flush") }))
}

/// Submits one encoder and waits for it. Seconds from the submission of what was recorded to the end of waiting.
#[cfg(not(target_arch = "wasm32"))]
fn submit_timed(ctx: &Context, encoder: wgpu::CommandEncoder) -> Result<f64, Error> {
    let validation = ctx.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let memory = ctx.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let commands = encoder.finish();
    let start = Instant::now();
    let index = ctx.queue().submit([commands]);
    let polled = ctx.device().poll(wgpu::PollType::Wait { submission_index: Some(index), timeout: None });
    let seconds = start.elapsed().as_secs_f64();
    let memory = super::kernel::pop(memory);
    let validation = super::kernel::pop(validation);
    if let Some(error) = memory.or(validation) {
        return Err(Error::Device(error.to_string()));
    }
    polled.map_err(|e| Error::Device(format!("waiting for {}: {e}", ctx.info().name)))?;
    ctx.check_lost()?;
    Ok(seconds)
}

/// Runs a schedule and times it, on the host's clock and where the device can by its own stamps: `repeats` times over in
/// one pass, or where one run is cut for the watchdog, once, in a pass for each part. What is encoded before and read
/// back behind is not timed.
///
/// # Errors
/// [`Error::Device`] if the device is lost or refuses.
#[cfg(not(target_arch = "wasm32"))]
pub fn time(ctx: &Context, schedule: &Schedule, repeats: usize) -> Result<Lap, Error> {
    let parts = schedule.submissions(ctx.caps().dispatch_flops);
    // With nothing to do, a pass all the same: what the stamps themselves cost.
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

/// Reads a tensor back. On the web the browser resolves the map; elsewhere use [`read_blocking`], which also polls.
///
/// # Errors
/// [`Error::Device`] if the device is lost.
pub async fn read(ctx: &Context, tensor: &Tensor) -> Result<HostTensor, Error> {
    let bytes = read_bytes(ctx, tensor.buffer(), tensor.offset(), tensor.binding_bytes()).await?;
    let bytes = &bytes[..tensor.bytes() as usize];
    // The bytes come without alignment: collect element by element.
    let values = match tensor.dtype() {
        DType::F32 => Values::F32(bytemuck::pod_collect_to_vec(bytes)),
        DType::F16 => Values::F16(bytemuck::pod_collect_to_vec(bytes)),
        DType::I64 => Values::I64(bytemuck::pod_collect_to_vec(bytes)),
        DType::U32 => Values::U32(bytemuck::pod_collect_to_vec(bytes)),
    };
    Ok(HostTensor::new(tensor.shape().clone(), values))
}

async fn read_bytes(ctx: &Context, buffer: &wgpu::Buffer, offset: u64, size: u64) -> Result<Vec<u8>, Error> {
    let device = ctx.device();
    let staging = buffer::make(ctx, "readback", size, wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ)?;
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("readback") });
    encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, Some(size));
    ctx.queue().submit([encoder.finish()]);
    ctx.check_lost()?;
    let (sender, receiver) = oneshot_channel();
    staging.map_async(wgpu::MapMode::Read, ..size, move |result| {
        // A receiver that is gone no longer wants the answer.
        let _ = sender.send(result);
    });
    #[cfg(not(target_arch = "wasm32"))]
    device
        .poll(wgpu::PollType::wait_indefinitely())
        .map_err(|e| Error::Device(format!("waiting for {}: {e}", ctx.info().name)))?;
    let mapped = receiver.receive().await.ok_or_else(|| Error::Device("the map callback was dropped".into()))?;
    mapped.map_err(|e| Error::Device(format!("mapping a buffer for reading: {e}")))?;
    let view =
        staging.get_mapped_range(..size).map_err(|e| Error::Device(format!("mapping a buffer for reading: {e}")))?;
    Ok(view.to_vec())
}

/// [`read`], waited for.
///
/// # Errors
/// As [`read`].
#[cfg(not(target_arch = "wasm32"))]
pub fn read_blocking(ctx: &Context, tensor: &Tensor) -> Result<HostTensor, Error> {
    pollster::block_on(read(ctx, tensor))
}

/// Times of the passes a timer saw, after their encoder (with [`Timer::resolve`]) was submitted.
///
/// # Errors
/// As [`read`].
pub async fn read_timer(ctx: &Context, timer: &Timer) -> Result<Vec<Span>, Error> {
    let buffer = timer.resolved();
    let bytes = read_bytes(ctx, buffer, 0, buffer.size()).await?;
    let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes);
    Ok(timer.spans(&stamps, ctx.queue().get_timestamp_period()))
}

/// Fills a buffer with one byte, for poisoning outputs and workspace.
pub fn fill(ctx: &Context, buffer: &wgpu::Buffer, byte: u8) {
    ctx.queue().write_buffer(buffer, 0, &vec![byte; buffer.size() as usize]);
}
