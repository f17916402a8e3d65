//! Times one operator, one run per line of stdin. `tools/peers/` keeps this process alive while it times other
//! libraries.
//!
//! First it prints `on` (the device), `clock` (what the seconds measure) and `ready`. For every line on stdin it then
//! runs the operator and prints the seconds per run. At the end of stdin it writes the outputs.
//!
//! ```text
//! turns OP --input FILE [--adapter INDEX|NAME|gpu|cpu] [--threads T] [--output FILE] [--carry] [--flag NAME=VALUE]...
//! ```
//!
//! FILE holds all inputs, including parameters that `run` would draw: full rank, layout bhnd, f32, or f16 for tensors
//! along the sequence. `--adapter` is an index or part of a name as listed by `subquad adapters`; `gpu` for the best
//! hardware adapter; or `cpu` (default), the cpu backend on T threads (0: all cores). `--flag` takes a flag of `subquad
//! run OP` without dashes; a switch is true or false: `--flag causal=false`. `--carry` keeps the state.
//!
//! The outputs are those of a separate run that starts from a zero state, however many runs were timed. On an adapter
//! each timed run continues from the previous state, which changes the values but not the work.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use subquad::catalog::flags::{FlagKind, Flags};
use subquad::catalog::request::Request;
use subquad::catalog::spec::{Op, Role};
use subquad::gpu::{AdapterRequest, Context, Schedule, Select, readback};
use subquad::io;
use subquad::operator::Operator;
use subquad::ops;
use subquad::tensor::{DType, Layout, TensorMap};
use subquad::verify::run::{self, Prepared};

const USAGE: &str = "usage: turns OP --input FILE [--adapter INDEX|NAME|gpu|cpu] [--threads T] [--output FILE] \
                     [--carry] [--flag NAME=VALUE]...; a run a line of stdin";

/// Every error, of any type, is one sentence on stderr.
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

/// Prints the device and the clock, then runs once per line of stdin.
fn take_turns(on: &str, clock: &str, mut run: impl FnMut() -> Result<f64, Failure>) -> Result<(), Failure> {
    println!("on {on}\nclock {clock}\nready");
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{:.9}", run()?);
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The cpu backend. The seconds of a run include the allocation of its output.
fn on_cpu(
    operator: &dyn Operator,
    tensors: &TensorMap,
    threads: usize,
    wanted: bool,
) -> Result<Option<TensorMap>, Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let mut last = None;
    take_turns(&format!("cpu, {} threads", pool.current_num_threads()), "wall clock of one run", || {
        // Free the previous output before the clock starts, as a program that uses it would.
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

/// An adapter: `gpu`, an index or part of a name.
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
    // A software adapter runs only if it is named, never as the best one.
    let ctx = Context::open(&AdapterRequest { software: select.is_some(), select, ..AdapterRequest::default() })?;
    let info = ctx.info();
    let on = format!("{} ({}), driver {} {}", info.name, info.backend, info.driver, info.driver_info);
    let prepared = Prepared::new(&ctx, operator, tensors, false)?;
    let mut runs = 0;
    take_turns(on.trim_end(), CLOCK, || seconds(&ctx, prepared.schedule(), &mut runs))?;
    drop(prepared);
    // A separate run, because the timed runs have changed their state.
    wanted.then(|| Ok(run::gpu(&ctx, operator, tensors, false, &mut |_| ())?.outputs)).transpose()
}

/// Describes what [`seconds`] measures.
const CLOCK: &str = "timestamps of the device around several runs, the host's clock where it has none; of one run";

/// Seconds per turn: far more than the resolution of a timestamp.
const TURN: f64 = 0.01;

/// Seconds per run on an adapter, averaged over a turn. The first call determines the number of runs per turn.
fn seconds(ctx: &Context, schedule: &Schedule, runs: &mut usize) -> Result<f64, Failure> {
    let time = |runs| readback::time(ctx, schedule, runs).map(|lap| lap.gpu.unwrap_or(lap.wall));
    if *runs == 0 {
        time(1)?;
        let fit = (ctx.caps().dispatch_flops / schedule.cost().flops.max(1.0)) as usize;
        *runs = ((TURN / time(1)?).ceil() as usize).clamp(1, fit.clamp(1, 1000));
    }
    Ok(time(*runs)?)
}

/// Sets a flag given as `NAME=VALUE`. Refuses a name the operator does not read and a switch that is neither true nor
/// false, because the run would not be the one that was asked for.
fn set(op: &Op, flags: &mut Flags, given: &str) -> Result<(), String> {
    let (name, value) = given.split_once('=').ok_or_else(|| format!("--flag {given}: expected NAME=VALUE"))?;
    let kind = op.flag(name).ok_or_else(|| format!("--flag {given}: {} has no flag of that name", op.name))?;
    if matches!(kind, FlagKind::Switch) && !matches!(value, "true" | "false") {
        return Err(format!("--flag {given}: expected true or false"));
    }
    flags.set(name, value);
    Ok(())
}
