//! A whole model inside a wgpu program: planned once, recorded into one compute pass of the program's own encoder for each
//! token. That encoder also copies the logits to where the host can read them, so a token is one submission. The program
//! prints the dispatches of a token by operator, and the text.
//!
//! ```text
//! cargo run --release --example model -- DIR [PROMPT]
//! ```

use std::error::Error;
use std::io::Write;

use subquad::gpu::{AdapterRequest, Context};
use subquad::model::Model;
use subquad::model::device::{Device, Pass};
use subquad::model::sampling::{Sampler, Settings};
use subquad::model::tokens::Tokenizer;

/// Tokens that are written.
const TOKENS: usize = 120;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder has the model?")?;
    let prompt = arguments.next().unwrap_or_else(|| "In the beginning".into());

    // In an application: Context::from_device(device, queue).
    let ctx = Context::open(&AdapterRequest { software: true, ..AdapterRequest::default() })?;
    println!("on {}", ctx.info().name);
    let model = Model::open(folder.as_ref())?;
    let tokenizer = Tokenizer::of(&model)?;
    let tokens = tokenizer.encode(prompt.as_bytes())?;
    let (last, before) = tokens.split_last().ok_or("the prompt is empty")?;

    // One plan for the prompt and one for a single token. Both go on from the same state.
    let mut device = Device::new(&model, &ctx);
    let capacity = tokens.len() + TOKENS;
    let step = device.plan(1, capacity)?;
    let counts = step.schedule().dispatches();
    let each: Vec<_> = counts.iter().map(|(op, count)| format!("{op} {count}")).collect();
    println!("dispatches per token: {} ({})", counts.iter().map(|(_, count)| count).sum::<usize>(), each.join(", "));
    let host = Host::new(&ctx, &step)?;
    if !before.is_empty() {
        host.run(&*device.plan(before.len(), capacity)?, before)?;
    }

    let mut sampler = Sampler::new(Settings { temperature: 0.7, top_k: Some(40), ..Settings::default() })?;
    let (mut next, mut out) = (*last, std::io::stdout());
    write!(out, "{prompt}")?;
    for _ in 0..TOKENS {
        next = sampler.next(&host.run(&step, &[next])?)?;
        out.write_all(&tokenizer.decode(&[next])?)?;
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}

/// Where the host reads the logits of the last token.
struct Host<'c> {
    ctx: &'c Context,
    logits: wgpu::Buffer,
}

impl<'c> Host<'c> {
    fn new(ctx: &'c Context, step: &Pass) -> Result<Self, Box<dyn Error>> {
        let logits = ctx.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("logits"),
            size: step.logits().ok_or("the plan has no logits")?.bytes(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        Ok(Self { ctx, logits })
    }

    /// Runs tokens in one submission. Returns the logits of the last one.
    fn run(&self, pass: &Pass, tokens: &[u32]) -> Result<Vec<f32>, Box<dyn Error>> {
        let (device, queue, size) = (self.ctx.device(), self.ctx.queue(), self.logits.size());
        queue.write_buffer(pass.tokens().buffer(), pass.tokens().offset(), bytemuck::cast_slice(tokens));
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut compute = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            // The program's own dispatches may stand before and behind it.
            pass.encode_in(&mut compute);
        }
        let logits = pass.logits().ok_or("the plan has no logits")?;
        let last = logits.offset() + logits.bytes() - size;
        encoder.copy_buffer_to_buffer(logits.buffer(), last, &self.logits, 0, size);
        queue.submit([encoder.finish()]);
        self.logits.map_async(wgpu::MapMode::Read, .., |_| {});
        device.poll(wgpu::PollType::wait_indefinitely())?;
        let values = bytemuck::pod_collect_to_vec(&self.logits.get_mapped_range(..)?);
        self.logits.unmap();
        Ok(values)
    }
}
