//! Times each dispatch of an operator's plan with GPU timestamps, to show where the time goes.
//!
//! ```text
//! cargo run --release --example steps -- linear --shape H=16,N=16384,D=64 [--adapter INDEX|NAME] [--repeat R]
//!     [--flag NAME=VALUE]...
//! ```
//!
//! Inputs are random, as from `subquad sample`. Each run records one encoder with one pass per dispatch. Dispatches do
//! not overlap, so their sum exceeds the time of a run in a single pass (which `bench` measures) by the cost of the
//! passes.

use std::process::ExitCode;

use clap::Parser;
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::gpu::{AdapterRequest, Context, Select, Spread, Timer, readback};
use subquad::ops;
use subquad::verify::run::Prepared;

/// Times each dispatch of an operator on an adapter.
#[derive(Parser)]
struct Args {
    /// Operator.
    op: String,
    /// Axis lengths, for example H=16,N=16384,D=64.
    #[arg(long, value_delimiter = ',', required = true)]
    shape: Vec<String>,
    /// A flag of `subquad run`, for example segment=256; may be repeated.
    #[arg(long)]
    flag: Vec<String>,
    /// Adapter, by index or part of its name (default: the best hardware adapter).
    #[arg(long)]
    adapter: Option<String>,
    /// Number of runs.
    #[arg(long, default_value_t = 20)]
    repeat: usize,
}

/// Every error is one sentence on stderr.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steps: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<(), Failure> {
    let op = ops::find(&args.op).ok_or_else(|| format!("no operator `{}`", args.op))?;
    let case = case(op, args)?;
    let select = args.adapter.as_ref().map(|a| a.parse().map_or_else(|_| Select::Name(a.clone()), Select::Index));
    let ctx = Context::open(&AdapterRequest { software: select.is_some(), select, ..AdapterRequest::default() })?;
    let operator = case.configure(op)?;
    let prepared = Prepared::new(&ctx, operator.as_ref(), &random::inputs(op, &case)?, false)?;
    let recording = prepared.bind()?;
    println!("{}, {}", ctx.info().name, prepared.plan().program().variant());

    let mut times = vec![Vec::new(); recording.len()];
    // Skip the first run: drivers may still be compiling pipelines.
    for run in 0..=args.repeat {
        let mut timer = Timer::new(&ctx, recording.len()).ok_or("the adapter has no timestamps, or too few")?;
        let mut encoder = ctx.device().create_command_encoder(&Default::default());
        recording.encode_timed(&mut encoder, &mut timer);
        timer.resolve(&mut encoder);
        readback::submit(&ctx, encoder)?;
        let spans = pollster::block_on(readback::read_timer(&ctx, &timer))?;
        for (span, times) in spans.iter().zip(&mut times).filter(|_| run > 0) {
            times.extend(span.nanoseconds.map(|ns| ns * 1e-3));
        }
    }
    println!(
        "{:>10} {:>10} {:>10}  {:>8} {:>8}  groups x invocations  dispatch",
        "us", "p10", "p90", "GFLOP/s", "GB/s"
    );
    for (step, times) in recording.steps().zip(times) {
        let Some(us) = Spread::of(times) else {
            println!("{:>10}  {}", "rejected", step.label);
            continue;
        };
        let (rate, count) = (1e-3 / us.median, |of: [u32; 3]| of.iter().map(|&n| u64::from(n)).product::<u64>());
        println!(
            "{:>10.1} {:>10.1} {:>10.1}  {:>8.0} {:>8.1}  {} x {}  {}",
            us.median,
            us.p10,
            us.p90,
            step.cost.flops * rate,
            step.cost.bytes() * rate,
            count(step.groups),
            count(step.workgroup),
            step.label,
        );
    }
    Ok(())
}

/// The case that the arguments describe, with the tensors its flags require.
fn case(op: &'static Op, args: &Args) -> Result<Case, Failure> {
    let pair = |text: &str| -> Result<(String, String), Failure> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}`: expected NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let mut axes = Vec::new();
    for text in &args.shape {
        let (name, value) = pair(text)?;
        let known = op.axes.iter().find(|(letter, _)| *letter == name);
        let letter = known.ok_or_else(|| format!("{} has no axis {name}", op.name))?.0;
        axes.push((letter, value.parse().map_err(|e| format!("{text}: {e}"))?));
    }
    let mut case = Case::new("steps", &axes);
    for text in &args.flag {
        let (name, value) = pair(text)?;
        case = case.flag(&name, &value);
    }
    case.complete(op);
    Ok(case)
}
