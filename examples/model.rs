//! A whole model inside a wgpu program: planned once, recorded into the program's own pass for each token.
//!
//! ```text
//! cargo run --release --example model -- DIR [PROMPT]
//! ```

use std::error::Error;
use std::io::Write;

use subquad::gpu::{AdapterRequest, Context, readback};
use subquad::model::Model;
use subquad::model::device::Device;
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
    println!("{} dispatches per token", step.schedule().recordings().len());
    let run = |pass: &subquad::model::device::Pass, tokens: &[u32]| {
        ctx.queue().write_buffer(pass.tokens().buffer(), pass.tokens().offset(), bytemuck::cast_slice(tokens));
        let mut encoder = ctx.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut compute = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            // The program's own dispatches may stand before and behind it.
            pass.encode_in(&mut compute);
        }
        readback::submit(&ctx, encoder)
    };
    if !before.is_empty() {
        let prefill = device.plan(before.len(), capacity)?;
        run(&prefill, before)?;
    }

    let mut sampler = Sampler::new(Settings { temperature: 0.7, top_k: Some(40), ..Settings::default() })?;
    let (mut next, mut out) = (*last, std::io::stdout());
    write!(out, "{prompt}")?;
    for _ in 0..TOKENS {
        run(&step, &[next])?;
        let logits = readback::read_blocking(&ctx, step.logits().ok_or("the plan has no logits")?)?;
        next = sampler.next(&logits.to_f32())?;
        out.write_all(&tokenizer.decode(&[next])?)?;
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}
