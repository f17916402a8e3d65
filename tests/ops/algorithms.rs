//! The chunk form of the recurrences: every case that it can run, against the definition, and what it moves. Plans choose it for
//! larger states than those of most cases; here it is asked for.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::spec::Op;
use subquad::gpu::{Algorithm, Caps, Program};
use subquad::operator::Operator;
use subquad::operator::mode::Mode;
use subquad::operator::qkv::Qkv;
use subquad::ops::{all, linear, ssd};
use subquad::tensor::DType;

use crate::bytes::assert_moves_what_is_stated;
use crate::cover::{covering, lacks, usual};
use crate::support::{assert_matches, context, on_gpu_with, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![test(plans_choose_by_the_shape_and_say_why)];
    let caps = Caps { recurrence: Algorithm::Chunks, ..usual() };
    let every = std::env::var("SUBQUAD_ALL").is_ok_and(|v| v == "1");
    let software = || context().is_some_and(|ctx| ctx.caps().software);
    for op in all() {
        let chunked = |case: &Case| {
            let program = case.configure(op).and_then(|operator| operator.program(&caps));
            case.quick && !case.host && program.is_ok_and(|program| takes_chunks(&program))
        };
        let cases = if every || !software() {
            (op.cases)().into_iter().filter(chunked).collect()
        } else {
            covering(op, &caps, chunked)
        };
        trials.extend(cases.into_iter().map(|case| {
            Trial::ignorable_test(format!("chunks::{}::{case}", op.name), move || matches_the_definition(op, &case))
        }));
        let counted = |case: &Case| chunked(case) && case.dtype == DType::F32;
        trials.extend(covering(op, &caps, counted).into_iter().map(|case| {
            Trial::ignorable_test(format!("chunks::bytes::{}::{case}", op.name), move || {
                moves_what_it_states(op, &case)
            })
        }));
    }
    trials
}

fn takes_chunks(program: &Program) -> bool {
    program.steps().iter().any(|step| step.kernel.entry == "recurrence_chunk")
}

fn in_chunks(operator: &dyn Operator, caps: &Caps) -> Program {
    operator.program(&Caps { recurrence: Algorithm::Chunks, ..caps.clone() }).unwrap()
}

fn matches_the_definition(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    if let Some(reason) = lacks(case.dtype) {
        return Ok(Completion::ignored_with(reason));
    }
    let (operator, inputs) = prepare(op, case);
    let got = on_gpu_with(ctx, in_chunks(operator.as_ref(), ctx.caps()), &inputs);
    assert_matches("", operator.as_ref(), &inputs, &got);
    Ok(Completion::Completed)
}

fn moves_what_it_states(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let Some(ctx) = context() else { return Ok(Completion::ignored_with("no adapter")) };
    let (operator, inputs) = prepare(op, case);
    assert_moves_what_is_stated(ctx, op, case, in_chunks(operator.as_ref(), ctx.caps()), &inputs);
    Ok(Completion::Completed)
}

fn plans_choose_by_the_shape_and_say_why() {
    let caps = Caps::portable();
    let gated = |qkv| linear::Config { rule: linear::Rule::Gated(linear::Gate::Head), ..linear::Config::new(qkv) };
    let wide = Qkv::new().heads(16).len(4096).dim(64);
    let said = |operator: &dyn Operator, caps: &Caps| {
        let program = operator.program(caps).unwrap();
        (takes_chunks(&program), program.variant().to_owned())
    };
    let (chunks, variant) = said(&gated(wide), &caps);
    assert!(chunks && variant.starts_with("products of chunks of 64 tokens, segments of 64"), "{variant}");
    let (chunks, variant) = said(&ssd::Config::new(4096, 24, 64, 128), &caps);
    assert!(chunks && variant.starts_with("products of chunks of 64 tokens, segments of 128"), "{variant}");
    for (operator, why) in [
        (linear::Config::new(wide), "the state is narrow and does not decay"),
        (gated(wide.dim_v(20)), "the state is small"),
        (linear::Config { mode: Mode::new().segment(1000), ..gated(wide) }, "the segments asked for are long"),
    ] {
        let (chunks, variant) = said(&operator, &caps);
        assert!(!chunks && variant.ends_with(&format!(", token by token because {why}")), "{variant}");
    }
    // The choice does not depend on the length where a segment is given: parts of a sequence give the same bits.
    for len in [64, 100, 5000] {
        assert!(said(&linear::Config { mode: Mode::new().segment(64), ..gated(wide.len(len)) }, &caps).0);
    }
    assert!(!said(&gated(wide), &Caps { recurrence: Algorithm::Walk, ..caps }).0);
}
