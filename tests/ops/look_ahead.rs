//! Causal operators do not look ahead: `look_ahead::OP::CASE`. Later tokens change no bit of an output, and its own token
//! changes it.
//!
//! Every quick case with a causal mask and several tokens is one, so that no kernel is compiled for this alone.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::domain::Domain;
use subquad::catalog::random;
use subquad::catalog::spec::{Causality, Draw, Op, Role};
use subquad::gpu::Context;
use subquad::operator::Operator;
use subquad::ops::OPS;
use subquad::tensor::{DType, HostTensor, TensorMap};

use crate::algorithms::takes_chunks;
use crate::cover::{backends_of, lacks};
use crate::pieces::join;
use crate::support::{assert_same_bits, cases, context, cut, length_axis, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials = vec![test(every_causal_operator_has_cases)];
    for op in OPS {
        let of = |case: Case| Trial::ignorable_test(format!("look_ahead::{}::{case}", op.name), move || one(op, &case));
        trials.extend(cases(op).into_iter().filter(|case| looks_back(op, case)).map(of));
    }
    trials
}

/// Whether a case is a quick one with a causal mask, as many keys as queries, and several tokens that are taken forward.
fn looks_back(op: &Op, case: &Case) -> bool {
    let causal = match op.causal {
        Causality::Always => true,
        Causality::Both => case.flags.switch("causal") != Some(false),
        Causality::Never | Causality::Neither => false,
    };
    let (n, m) = (case.axis(op, "N").unwrap(), case.axis(op, "M"));
    let forward = case.flags.word("direction").is_none_or(|word| word == "forward");
    let causal = causal && case.flags.word("padding") != Some("same");
    causal && forward && case.quick && n >= 2 && m.is_none_or(|m| m == n)
}

fn every_causal_operator_has_cases() {
    for op in OPS.iter().filter(|op| op.causal != Causality::Never) {
        assert!((op.cases)().iter().any(|case| looks_back(op, case)), "{}", op.name);
    }
}

/// Inputs of another seed, large ones where any number may be drawn.
fn others(op: &Op, case: &Case) -> TensorMap {
    let mut all = random::inputs(op, &Case { seed: case.seed + 1, ..case.clone() }).unwrap();
    // The state of a delta rule grows with powers of its keys' squares: larger ones would overflow.
    if case.flags.word("rule").is_some_and(|rule| rule.contains("delta")) {
        return all;
    }
    for spec in op.inputs {
        let draw = if let Draw::ByFlags(draw) = spec.draw { draw(&case.flags) } else { spec.draw };
        if let (Some(tensor), Draw::Normal) = (all.get(spec.name), draw) {
            let large = tensor.to_f32().into_iter().map(|x| 30.0 * x).collect();
            let large = HostTensor::f32(tensor.shape().clone(), large).cast(tensor.dtype());
            all.insert(spec.name, large);
        }
    }
    all
}

/// Finite inputs whose products overflow: numbers of 1e20 (the largest that f16 has), decays that let the state grow by e^89.
fn overflowing(op: &Op, inputs: &TensorMap) -> TensorMap {
    let one = |(name, tensor): (&str, &HostTensor)| {
        let spec = op.inputs.iter().find(|spec| spec.name == name);
        let Some(spec) = spec.filter(|spec| spec.role == Role::Sequence) else {
            return (name.to_owned(), tensor.clone());
        };
        let most = if tensor.dtype() == DType::F16 { 65504.0 } else { 1e20 };
        let huge = |x: f32| match spec.domain {
            Domain::LogDecay => 89.0,
            _ => (1e20 * x).clamp(-most, most),
        };
        let values = tensor.to_f32().into_iter().map(huge).collect();
        (name.to_owned(), HostTensor::f32(tensor.shape().clone(), values).cast(tensor.dtype()))
    };
    inputs.iter().map(one).collect()
}

/// Tokens before one that is not a number which it can reach at most, in a backend that computes with tiles.
const REACH: usize = 255;

/// Inputs along the sequence that are not numbers.
fn broken(op: &Op, inputs: &TensorMap) -> TensorMap {
    let one = |(name, tensor): (&str, &HostTensor)| {
        let along = op.inputs.iter().any(|spec| spec.name == name && spec.role == Role::Sequence);
        let nan = || HostTensor::f32(tensor.shape().clone(), vec![f32::NAN; tensor.shape().count()]);
        (name.to_owned(), if along { nan().cast(tensor.dtype()) } else { tensor.clone() })
    };
    inputs.iter().map(one).collect()
}

/// The inputs, with the tokens of others from `at` on.
fn changed(op: &Op, case: &Case, inputs: &TensorMap, others: &TensorMap, at: usize) -> TensorMap {
    let mut all = inputs.clone();
    for spec in op.inputs {
        let Some(tensor) = inputs.get(spec.name) else { continue };
        let Some(axis) = length_axis(op.inputs, case, spec.name) else { continue };
        let (n, other) = (tensor.shape().dims()[axis], others.get(spec.name).unwrap());
        all.insert(spec.name, join(&[cut(tensor, axis, 0, at), cut(other, axis, at, n)], axis));
    }
    all
}

/// Whether the plan for this device multiplies chunks of tokens.
fn in_chunks(ctx: &Context, operator: &dyn Operator) -> bool {
    takes_chunks(&operator.program(ctx.caps()).unwrap())
}

fn one(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let n = case.axis(op, "N").unwrap();
    let (operator, inputs) = prepare(op, case);
    let (others, overflowing, broken) = (others(op, case), overflowing(op, &inputs), broken(op, &inputs));
    let changes = [
        (n / 2, &others, "changed"),
        (n - 1, &others, "changed"),
        (n / 2, &overflowing, "overflows"),
        (n - 1, &broken, "is not a number"),
    ]
    .map(|(at, later, how)| (at, how, changed(op, case, &inputs, later, at)));
    for (backend, run) in backends_of(op, case) {
        let before = run(operator.as_ref(), &inputs);
        for (at, how, changed) in &changes {
            let (at, after) = (*at, run(operator.as_ref(), changed));
            for spec in op.outputs.iter().filter(|spec| before.get(spec.name).is_some()) {
                let axis = length_axis(op.outputs, case, spec.name).unwrap();
                let part = |outputs: &TensorMap, from, to| cut(outputs.get(spec.name).unwrap(), axis, from, to);
                let what = format!("{backend}, token {at} {how}: {}", spec.name);
                // A recurrence on a GPU takes tokens one by one, or chunks of them. Tiles multiply by the zeros of their masks.
                let tiles =
                    backend == "cpu" || !op.recurrent || context().is_some_and(|ctx| in_chunks(ctx, &*operator));
                let safe = if *how == "is not a number" && tiles { at.saturating_sub(REACH) } else { at };
                assert_same_bits(&what, &part(&before, 0, safe), &part(&after, 0, safe));
                let own = [&before, &after].map(|outputs| part(outputs, at, at + 1));
                // A query may read a slot of a memory that nothing was written to, before and after.
                let empty = own[0].to_f32().iter().all(|x| *x == 0.0);
                assert!(empty || own[0].bytes() != own[1].bytes(), "{what} does not depend on it");
            }
        }
    }
    Ok(match lacks(case.dtype) {
        Some(reason) => Completion::ignored_with(format!("in part: {reason}")),
        None => Completion::Completed,
    })
}
