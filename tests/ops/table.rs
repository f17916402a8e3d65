//! What holds for every row of the table.

use subquad::gpu::{Caps, plan};
use subquad::ops::{Case, OPS, Precision, Rows, rows};
use subquad::tensor::{DType, HostTensor, Layout, TensorMap};

use crate::support::{assert_matches, assert_same_bits, backends, cases, context, on_gpu, prepare, unchecked_context};

#[test]
fn every_case_matches_the_definition_on_the_gpu() {
    let Some(ctx) = context() else { return };
    for op in OPS {
        for case in cases(op) {
            if case.dtype == DType::F16 && !ctx.caps().f16 {
                eprintln!("SKIPPED: {} {case}: {} has no f16", op.name, ctx.info().name);
                continue;
            }
            let (operator, inputs) = prepare(op, &case);
            let run = on_gpu(ctx, operator.as_ref(), &inputs);
            assert_matches(&format!("{} {case}", op.name), op, operator.as_ref(), &inputs, &run.outputs);
        }
    }
}

#[test]
fn every_case_matches_the_definition_on_the_cpu() {
    for op in OPS {
        for case in cases(op) {
            let (operator, inputs) = prepare(op, &case);
            let outputs = operator.cpu(&inputs).unwrap();
            assert_matches(&format!("{} {case}", op.name), op, operator.as_ref(), &inputs, &outputs);
        }
    }
}

/// What `bench` judges long sequences by.
#[test]
fn the_definition_of_some_rows_is_that_of_all_at_these_rows() {
    for op in OPS {
        for case in cases(op).into_iter().filter(|case| case.quick) {
            let (operator, inputs) = prepare(op, &case);
            let at = rows::sample(case.axis(op, "N").unwrap_or(1), 5);
            let some = operator.reference(&inputs, Precision::F64, Rows::At(&at));
            let slots = operator.slots();
            for ((name, some), (_, all)) in some.into_iter().zip(operator.reference(&inputs, Precision::F64, Rows::All))
            {
                let part = slots.iter().flat_map(|s| &s.parts).find(|p| p.name == name).unwrap();
                let all = all.into_iter().map(|x| x as f32).collect();
                let map = [(name.to_owned(), HostTensor::f32(part.shape.clone(), all))].into_iter().collect();
                let picked = rows::pick(op.outputs, case.layout, &map, &at);
                let some: Vec<f32> = some.into_iter().map(|x| x as f32).collect();
                assert_eq!(picked.get(name).unwrap().to_f32(), some, "{} {case}: {name}", op.name);
            }
        }
    }
}

#[test]
fn the_same_run_gives_the_same_bits() {
    let Some(ctx) = context() else { return };
    for op in OPS {
        let case = cases(op).into_iter().max_by_key(|c| c.axis(op, "N")).unwrap();
        let (operator, inputs) = prepare(op, &case);
        let first = on_gpu(ctx, operator.as_ref(), &inputs);
        let second = on_gpu(ctx, operator.as_ref(), &inputs);
        for ((name, a), (_, b)) in first.outputs.iter().zip(second.outputs.iter()) {
            assert_same_bits(&format!("{} {case}: {name}", op.name), a, b);
        }
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let one = pool(1).install(|| operator.cpu(&inputs).unwrap());
        let three = pool(3).install(|| operator.cpu(&inputs).unwrap());
        for ((name, a), (_, b)) in one.iter().zip(three.iter()) {
            assert_same_bits(&format!("{} {case} on the cpu: {name}", op.name), a, b);
        }
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

#[test]
fn layouts_hold_the_same_numbers() {
    for op in OPS {
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
}

/// Tests run with shader checks, programs without.
#[test]
fn shader_checks_do_not_change_a_bit() {
    let (Some(checked), Some(unchecked)) = (context(), unchecked_context()) else { return };
    for op in OPS {
        // Narrow ones: a software adapter compiles wide ones for seconds, and here twice.
        let narrow = |c: &Case| c.quick && c.axis(op, "D").is_none_or(|d| d <= 24);
        for case in cases(op).into_iter().filter(narrow).step_by(8) {
            if case.dtype == DType::F16 && !checked.caps().f16 {
                continue;
            }
            let (operator, inputs) = prepare(op, &case);
            let [a, b] = [checked, unchecked].map(|ctx| on_gpu(ctx, operator.as_ref(), &inputs).outputs);
            assert_eq!(a.names(), b.names(), "{} {case}", op.name);
            for ((name, a), (_, b)) in a.iter().zip(b.iter()) {
                assert_same_bits(&format!("{} {case}: {name}", op.name), a, b);
            }
        }
    }
}

#[test]
fn plans_of_all_cases_are_consistent_and_move_at_least_the_essential_bytes() {
    let caps = Caps { f16: true, ..Caps::portable() };
    for op in OPS {
        let mut names: Vec<_> = (op.cases)().into_iter().map(|c| c.name).collect();
        names.sort();
        names.windows(2).for_each(|w| assert_ne!(w[0], w[1], "{}: two cases of one name", op.name));
        for case in (op.cases)() {
            let (operator, inputs) = prepare(op, &case);
            let program = operator.program(&caps).unwrap();
            assert!(plan::operands_fit(&program), "{} {case}", op.name);
            let (cost, essential) = (program.cost(), operator.cost());
            assert!(cost.bytes_read >= essential.bytes_read, "{} {case}: {cost:?} {essential:?}", op.name);
            assert!(cost.bytes_written >= essential.bytes_written, "{} {case}", op.name);
            assert!(cost.flops >= essential.flops, "{} {case}", op.name);
            assert!(cost.exps >= essential.exps, "{} {case}: {cost:?} {essential:?}", op.name);
            let slots = operator.slots();
            for (name, values) in operator.reference(&inputs, Precision::F32, Rows::All) {
                let part = slots.iter().flat_map(|s| &s.parts).find(|p| p.name == name);
                assert_eq!(part.map(|p| p.shape.count()), Some(values.len()), "{} {case} {name}", op.name);
                // Values that are not finite match each other whatever they are: a case of them would test nothing.
                assert!(values.iter().all(|x| x.is_finite()), "{} {case} {name}: not all finite", op.name);
            }
        }
    }
}
