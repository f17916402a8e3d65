//! Creates all buffers of the crate, so that an exceeded limit or a lack of memory is an error and not a panic.

use super::context::Context;
use super::pipeline::pop;
use crate::error::Error;

/// A buffer of at least `size` bytes, zeroed by wgpu.
pub(super) fn make(ctx: &Context, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer, Error> {
    allocate(ctx, label, size, usage, false)
}

/// A buffer that holds `bytes`, filled while it is mapped: no queue is involved.
pub(super) fn filled(
    ctx: &Context,
    label: &str,
    bytes: &[u8],
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer, Error> {
    let buffer = allocate(ctx, label, bytes.len() as u64, usage, true)?;
    // A lost device reports no error before.
    let refused = |e| Error::device(format!("no memory for `{label}`: is the device lost or destroyed? {e}"));
    let mapped = buffer.get_mapped_range_mut(..).map_err(refused);
    mapped?.slice(..bytes.len()).copy_from_slice(bytes);
    buffer.unmap();
    Ok(buffer)
}

fn allocate(
    ctx: &Context,
    label: &str,
    size: u64,
    usage: wgpu::BufferUsages,
    mapped_at_creation: bool,
) -> Result<wgpu::Buffer, Error> {
    // The size of a binding must be a multiple of 4, that of a mapped range a multiple of 8.
    let size = size.max(16).next_multiple_of(16);
    let memory = ctx.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = ctx.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation };
    let buffer = ctx.device().create_buffer(&descriptor);
    let validation = pop(validation);
    match pop(memory).or(validation) {
        Some(error) => Err(Error::device(format!("no buffer of {size} bytes for `{label}`: {error}"))),
        None => ctx.check_lost().map(|()| buffer),
    }
}
