//! What holds for every row of the table: a trial for each operator, named `table::TEST::OP`.

use libtest_mimic::Trial;
use subquad::catalog::case::Case;
use subquad::catalog::spec::Op;
use subquad::ops::{OPS, PARTS};
use subquad::tensor::{DType, HostTensor, Layout, TensorMap};

use crate::cover::{lacks, runs_here};
use crate::support::{assert_same_bits, backends, cases, context, on_gpu, prepare, test_each, unchecked_context};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = Vec::new();
    // For the cpu backend this is tests/trials/threads.rs.
    for ops in [OPS, PARTS] {
        trials.extend(test_each(ops, the_same_run_gives_the_same_bits));
        trials.extend(test_each(ops, layouts_hold_the_same_numbers));
        trials.extend(test_each(ops, shader_checks_do_not_change_a_bit));
    }
    trials
}

fn the_same_run_gives_the_same_bits(op: &Op) {
    let Some(ctx) = context() else { return };
    let runs = |case: &Case| lacks(case.dtype).is_none();
    let case = cases(op).into_iter().filter(runs).max_by_key(|c| c.axis(op, "N")).unwrap();
    let (operator, inputs) = prepare(op, &case);
    let first = on_gpu(ctx, operator.as_ref(), &inputs);
    let second = on_gpu(ctx, operator.as_ref(), &inputs);
    for ((name, a), (_, b)) in first.outputs.iter().zip(second.outputs.iter()) {
        assert_same_bits(&format!("{} {case}: {name}", op.name), a, b);
    }
}

/// The other axis order of a tensor that follows the layout.
fn turn(t: &HostTensor) -> HostTensor {
    let d = t.shape().dims().to_vec();
    let rest: usize = d[3..].iter().product();
    let values = t.to_f32();
    let mut out = Vec::with_capacity(values.len());
    for b in 0..d[0] {
        for j in 0..d[2] {
            for i in 0..d[1] {
                let at = ((b * d[1] + i) * d[2] + j) * rest;
                out.extend_from_slice(&values[at..at + rest]);
            }
        }
    }
    let shape: Vec<usize> = [d[0], d[2], d[1]].iter().chain(&d[3..]).copied().collect();
    HostTensor::f32(shape, out).cast(t.dtype())
}

fn layouts_hold_the_same_numbers(op: &Op) {
    let follows = |name: &str| op.inputs.iter().chain(op.outputs).any(|s| s.name == name && s.follows_layout);
    let case = cases(op).into_iter().find(|case| case.name == "grouped").unwrap();
    let (operator, inputs) = prepare(op, &case);
    let turned = case.clone().layout(Layout::Bnhd).configure(op).unwrap();
    let turned_inputs: TensorMap =
        inputs.iter().map(|(n, t)| (n.to_owned(), if follows(n) { turn(t) } else { t.clone() })).collect();
    for (backend, run) in backends() {
        let (a, b) = (run(operator.as_ref(), &inputs), run(turned.as_ref(), &turned_inputs));
        for (name, tensor) in a.iter().filter(|(name, _)| follows(name)) {
            assert_same_bits(&format!("{} on {backend}: {name}", op.name), &turn(tensor), b.get(name).unwrap());
        }
    }
}

/// Tests run with shader checks, programs without.
fn shader_checks_do_not_change_a_bit(op: &Op) {
    let (Some(checked), Some(unchecked)) = (context(), unchecked_context()) else { return };
    // A few narrow ones: a software adapter compiles wide ones for seconds, and here twice.
    let narrow = |c: &Case| c.quick && c.axis(op, "D").is_none_or(|d| d <= 24) && runs_here(op, c);
    let some: Vec<Case> = cases(op).into_iter().filter(narrow).collect();
    for case in some.iter().step_by(some.len().div_ceil(4).max(1)) {
        if case.dtype == DType::F16 && !checked.caps().f16 {
            continue;
        }
        let (operator, inputs) = prepare(op, case);
        let [a, b] = [checked, unchecked].map(|ctx| on_gpu(ctx, operator.as_ref(), &inputs).outputs);
        assert_eq!(a.names(), b.names(), "{} {case}", op.name);
        for ((name, a), (_, b)) in a.iter().zip(b.iter()) {
            assert_same_bits(&format!("{} {case}: {name}", op.name), a, b);
        }
    }
}
