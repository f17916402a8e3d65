//! Times the cpu backend for `tools/peers/onnxruntime_linear.py`: rule linear (causal, identity map, no denominator),
//! f32, layout bhnd, the final state kept.
//!
//! Prints `ready`, then for every line on stdin runs once and prints the seconds of that run, the allocation of its output
//! included. The last output is written at the end of stdin.
//!
//! ```text
//! cpu_linear [--heads H] [--dim D] [--length N] [--threads T] [--input FILE] [--output FILE]
//! ```
//!
//! FILE holds q, k, v of `[1, H, N, D]`; without one the values are made up.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use subquad::io;
use subquad::ops::Operator;
use subquad::ops::linear::{Config, FeatureMap};
use subquad::tensor::{HostTensor, TensorMap};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut heads, mut dim, mut length, mut threads) = (8usize, 64usize, 8192usize, 0usize);
    let (mut input, mut output) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--heads" => heads = value.parse()?,
            "--dim" => dim = value.parse()?,
            "--length" => length = value.parse()?,
            "--threads" => threads = value.parse()?,
            "--input" => input = Some(PathBuf::from(value)),
            "--output" => output = Some(PathBuf::from(value)),
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }

    let shape = [1, heads, length, dim];
    let tensors: TensorMap = match &input {
        Some(path) => io::read(path)?.tensors,
        None => ["q", "k", "v"].into_iter().zip(1..).map(|(name, seed)| (name.into(), made_up(shape, seed))).collect(),
    };
    for name in ["q", "k", "v"] {
        match tensors.get(name).map(|tensor| tensor.shape().dims()) {
            Some(found) if found == shape => {}
            found => return Err(format!("{name}: expected {shape:?}, found {found:?}").into()),
        }
    }

    let mut config = Config::new(1, heads, length, dim, dim);
    config.feature_map = FeatureMap::Identity;
    config.normalize = false;
    config.carry = true;
    config.validate()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;

    println!("ready");
    let mut last = None;
    for line in std::io::stdin().lock().lines() {
        line?;
        // Freed before the clock starts, as between the runs of a program that uses its output.
        drop(last.take());
        let start = Instant::now();
        let outputs = pool.install(|| config.cpu(&tensors))?;
        println!("{:.9}", start.elapsed().as_secs_f64());
        std::io::stdout().flush()?;
        last = Some(outputs);
    }
    if let Some(path) = output {
        io::write(&path, &last.ok_or("no run, so no output")?, &BTreeMap::from([("layout".into(), "bhnd".into())]))?;
    }
    Ok(())
}

/// Values between -1 and 1 from a small generator: timing does not depend on them.
fn made_up(shape: [usize; 4], seed: u64) -> HostTensor {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let values = std::iter::repeat_with(next).take(shape.iter().product()).collect();
    HostTensor::f32(shape, values)
}
