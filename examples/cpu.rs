//! Times the cpu backend of any operator, for the scripts of `tools/peers/`.
//!
//! Prints `ready`, then for every line on stdin runs once and prints the seconds of that run, the allocation of its
//! output included. The last output is written at the end of stdin.
//!
//! ```text
//! cpu OP --input FILE [--threads T] [--output FILE] [--carry] [--flag NAME=VALUE]...
//! ```
//!
//! FILE holds the operator's inputs, full rank, f32, layout bhnd. A flag is one of `subquad run OP` without its dashes;
//! a switch is true or false: `--flag causal=false`. `--carry` keeps the state: zero before, returned after.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use subquad::io;
use subquad::ops::{self, FlagKind, Flags, Op, Request};
use subquad::tensor::{DType, Layout};

const USAGE: &str =
    "usage: cpu OP --input FILE [--threads T] [--output FILE] [--carry] [--flag NAME=VALUE]...; a run a line of stdin";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().ok_or(USAGE)?;
    let op = ops::find(&name).ok_or_else(|| format!("no operator `{name}`; {USAGE}"))?;
    let (mut flags, mut carry, mut threads) = (Flags::new(), false, 0usize);
    let (mut input, mut output) = (None, None);
    while let Some(arg) = args.next() {
        if arg == "--carry" {
            carry = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value; {USAGE}"))?;
        match arg.as_str() {
            "--input" => input = Some(PathBuf::from(value)),
            "--output" => output = Some(PathBuf::from(value)),
            "--threads" => threads = value.parse()?,
            "--flag" => set(op, &mut flags, &value)?,
            _ => return Err(format!("unknown argument {arg}; {USAGE}").into()),
        }
    }

    let input = input.ok_or(USAGE)?;
    let tensors = io::read_only(&input, &|name| op.inputs.iter().any(|spec| spec.name == name))?.tensors;
    let shapes: Vec<_> = tensors.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().clone())).collect();
    let request = Request { flags: &flags, shapes: &shapes, layout: Layout::Bhnd, dtype: DType::F32, carry };
    let operator = (op.configure)(&request)?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;

    println!("ready");
    let mut last = None;
    for line in std::io::stdin().lock().lines() {
        line?;
        // Freed before the clock starts, as between the runs of a program that uses its output.
        drop(last.take());
        let start = Instant::now();
        let outputs = pool.install(|| operator.cpu(&tensors))?;
        println!("{:.9}", start.elapsed().as_secs_f64());
        std::io::stdout().flush()?;
        last = Some(outputs);
    }
    if let Some(path) = output {
        io::write(&path, &last.ok_or("no run, so no output")?, &BTreeMap::from([("layout".into(), "bhnd".into())]))?;
    }
    Ok(())
}

/// Sets a flag given as `NAME=VALUE`. A name that the operator does not read, or a switch that is neither, would time
/// something else than was asked for.
fn set(op: &Op, flags: &mut Flags, given: &str) -> Result<(), String> {
    let (name, value) = given.split_once('=').ok_or_else(|| format!("--flag {given}: expected NAME=VALUE"))?;
    let own = op.flags.iter().find(|flag| flag.name == name).map(|flag| flag.kind);
    let kind = match (own, name) {
        (Some(kind), _) => kind,
        (None, "causal") => FlagKind::Switch,
        (None, "decode") if op.recurrent => FlagKind::Switch,
        (None, "segment") if op.recurrent => FlagKind::Count,
        (None, _) => return Err(format!("--flag {given}: {} has no flag of that name", op.name)),
    };
    if matches!(kind, FlagKind::Switch) && !matches!(value, "true" | "false") {
        return Err(format!("--flag {given}: expected true or false"));
    }
    flags.set(name, value);
    Ok(())
}
