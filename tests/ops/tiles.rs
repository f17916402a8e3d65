//! The tiles of attention for devices whose invocations have few registers, which software adapters do not take by themselves:
//! some cases of each operator that uses them.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::spec::Op;
use subquad::gpu::Caps;
use subquad::ops::{linformer, softmax, yat};

use crate::support::{assert_matches, context, on_gpu_with, prepare};

/// Operators and their cases, and whether they are quick. Only values of 33 to 64 columns have two kinds of tiles.
const CASES: [(&Op, &str, bool); 4] = [
    (&softmax::OP, "dims_40_64", true),
    (&softmax::OP, "dims_64_33", false),
    (&yat::OP, "dims_40_64", true),
    (&linformer::OP, "dims_40_64", true),
];

pub(crate) fn tests() -> Vec<Trial> {
    let quick = std::env::var("SUBQUAD_QUICK").is_ok_and(|v| v == "1");
    let wanted = CASES.iter().filter(|case| case.2 || !quick);
    let trial = |&(op, name, _): &(&'static Op, &'static str, bool)| {
        Trial::ignorable_test(format!("tiles::{}::{name}", op.name), move || run(op, name))
    };
    wanted.map(trial).collect()
}

fn run(op: &Op, name: &str) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    let case = (op.cases)().into_iter().find(|case| case.name.starts_with(name)).ok_or("no such case")?;
    let (operator, inputs) = prepare(op, &case);
    for registers in [Caps::portable().registers, 256] {
        let caps = Caps { registers, matrix: None, ..ctx.caps().clone() };
        let program = operator.program(&caps).unwrap();
        let keys = if registers == 256 { "64 keys" } else { "32 keys" };
        assert!(program.variant().contains(keys), "{program}");
        assert_matches(keys, &*operator, &inputs, &on_gpu_with(ctx, program, &inputs));
    }
    Ok(Completion::Completed)
}
