//! Times one operator, a run for every line of stdin: the process that `tools/peers/` keeps alive beside what it
//! compares with.
//!
//! First it prints `on` with the machine part that runs and `clock` with what the seconds are, then `ready`; then, for
//! every line on stdin, it runs and prints the seconds of one run. At the end of stdin it writes the outputs.
//!
//! ```text
//! turns OP --input FILE [--adapter INDEX|NAME|gpu|cpu] [--threads T] [--output FILE] [--carry] [--flag NAME=VALUE]...
//! ```
//!
//! FILE holds the operator's inputs, parameters that would be drawn among them: full rank, layout bhnd, f32, or f16 in
//! the tensors along the sequence. `--adapter` is a number or a part of a name, as `subquad adapters` lists them, `gpu`
//! for the best hardware adapter, or `cpu`, the default: the cpu backend on T threads (0: all cores). A flag is one of
//! `subquad run OP` without its dashes; a switch is true or false: `--flag causal=false`. `--carry` keeps the state.
//!
//! The outputs written are those of one run whose state starts at zero, however many runs were timed. On an adapter the
//! timed runs go on from the state that the one before left, which changes values, not work.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use subquad::gpu::{AdapterRequest, Context, Schedule, Select, readback};
use subquad::io;
use subquad::ops::execute::{self, Prepared};
use subquad::ops::{self, FlagKind, Flags, Op, Operator, Request, Role};
use subquad::tensor::{DType, Layout, TensorMap};

const USAGE: &str = "usage: turns OP --input FILE [--adapter INDEX|NAME|gpu|cpu] [--threads T] [--output FILE] \
                     [--carry] [--flag NAME=VALUE]...; a run a line of stdin";

/// Everything here ends in one sentence on stderr, whatever its type was.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("turns: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or(USAGE)?;
    let op = ops::find(&name).ok_or_else(|| format!("no operator `{name}`; {USAGE}"))?;
    let (mut flags, mut carry, mut threads) = (Flags::new(), false, 0usize);
    let (mut input, mut output, mut adapter) = (None, None, "cpu".to_owned());
    while let Some(arg) = args.next() {
        if arg == "--carry" {
            carry = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value; {USAGE}"))?;
        match arg.as_str() {
            "--input" => input = Some(PathBuf::from(value)),
            "--output" => output = Some(PathBuf::from(value)),
            "--adapter" => adapter = value,
            "--threads" => threads = value.parse().map_err(|e| format!("--threads {value}: {e}"))?,
            "--flag" => set(op, &mut flags, &value)?,
            _ => return Err(format!("unknown argument {arg}; {USAGE}").into()),
        }
    }

    let input = input.ok_or(USAGE)?;
    let tensors = io::read_only(&input, &|name| op.inputs.iter().any(|spec| spec.name == name))?.tensors;
    let shapes: Vec<_> = tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().clone())).collect();
    let along = op.inputs.iter().filter(|spec| spec.role == Role::Sequence).find_map(|spec| tensors.get(spec.name));
    let dtype = along.map_or(DType::F32, |tensor| tensor.dtype());
    let request = Request { flags: &flags, shapes: &shapes, layout: Layout::Bhnd, dtype, carry };
    let operator = (op.configure)(&request)?;

    let outputs = match adapter.as_str() {
        "cpu" => on_cpu(operator.as_ref(), &tensors, threads, output.is_some())?,
        _ => on_adapter(operator.as_ref(), &tensors, &adapter, output.is_some())?,
    };
    if let Some((path, outputs)) = output.zip(outputs) {
        io::write(&path, &outputs, &BTreeMap::from([("layout".into(), "bhnd".into())]))?;
    }
    Ok(())
}

/// Runs once for every line of stdin, after saying where and what is measured.
fn take_turns(on: &str, clock: &str, mut run: impl FnMut() -> Result<f64, Failure>) -> Result<(), Failure> {
    println!("on {on}\nclock {clock}\nready");
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{:.9}", run()?);
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The cpu backend. Seconds of a run: the allocation of its output included.
fn on_cpu(
    operator: &dyn Operator,
    tensors: &TensorMap,
    threads: usize,
    wanted: bool,
) -> Result<Option<TensorMap>, Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut last = None;
    take_turns(&format!("cpu, {} threads", pool.current_num_threads()), "wall clock of one run", || {
        // Freed before the clock starts, as between the runs of a program that uses its output.
        drop(last.take());
        let start = Instant::now();
        last = Some(pool.install(|| operator.cpu(tensors))?);
        Ok(start.elapsed().as_secs_f64())
    })?;
    if wanted && last.is_none() {
        return Err("no run, so no output".into());
    }
    Ok(last)
}

/// An adapter: `gpu`, a number or a part of a name.
fn on_adapter(
    operator: &dyn Operator,
    tensors: &TensorMap,
    adapter: &str,
    wanted: bool,
) -> Result<Option<TensorMap>, Failure> {
    let select = match adapter {
        "gpu" => None,
        _ => Some(adapter.parse().map_or_else(|_| Select::Name(adapter.to_owned()), Select::Index)),
    };
    // A software adapter is never the best there is; named, it runs.
    let ctx = Context::open(&AdapterRequest { software: select.is_some(), select, ..AdapterRequest::default() })?;
    let info = ctx.info();
    let on = format!("{} ({}), driver {} {}", info.name, info.backend, info.driver, info.driver_info);
    let prepared = Prepared::new(&ctx, operator, tensors, false)?;
    let mut runs = 0;
    take_turns(on.trim_end(), CLOCK, || seconds(&ctx, prepared.schedule(), &mut runs))?;
    drop(prepared);
    // A run of its own: the state of the timed ones has moved on.
    wanted.then(|| Ok(execute::gpu(&ctx, operator, tensors, false, &mut |_| ())?.outputs)).transpose()
}

/// What [`seconds`] measures.
const CLOCK: &str = "timestamps of the device around several runs, the host's clock where it has none; of one run";

/// Seconds of runs in one turn: far more than a stamp's tick.
const TURN: f64 = 0.01;

/// Seconds of one run on an adapter, of as many as make a turn; how many is found the first time.
fn seconds(ctx: &Context, schedule: &Schedule, runs: &mut usize) -> Result<f64, Failure> {
    let time = |runs| readback::time(ctx, schedule, runs).map(|lap| lap.gpu.unwrap_or(lap.wall));
    if *runs == 0 {
        time(1)?;
        let fit = (ctx.caps().dispatch_flops / schedule.cost().flops.max(1.0)) as usize;
        *runs = ((TURN / time(1)?).ceil() as usize).clamp(1, fit.clamp(1, 1000));
    }
    Ok(time(*runs)?)
}

/// Sets a flag given as `NAME=VALUE`. A name that the operator does not read, or a switch that is neither, would time
/// something else than was asked for.
fn set(op: &Op, flags: &mut Flags, given: &str) -> Result<(), String> {
    let (name, value) = given.split_once('=').ok_or_else(|| format!("--flag {given}: expected NAME=VALUE"))?;
    let kind = op.flag(name).ok_or_else(|| format!("--flag {given}: {} has no flag of that name", op.name))?;
    if matches!(kind, FlagKind::Switch) && !matches!(value, "true" | "false") {
        return Err(format!("--flag {given}: expected true or false"));
    }
    flags.set(name, value);
    Ok(())
}
