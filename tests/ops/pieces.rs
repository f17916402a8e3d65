//! A sequence in pieces, each from the state that the one before left, is the sequence: `pieces::OP::CASE`.
//!
//! Every quick case that carries a state is one. Without a segment it is cut anywhere, pieces of one token are decoded, and
//! the bound is that of the definition; with a segment it is cut at multiples of it, and no bit may differ.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::spec::{Op, TensorSpec};
use subquad::operator::Operator;
use subquad::ops::{OPS, find};
use subquad::tensor::{HostTensor, TensorMap};
use subquad::verify::tolerance;

use crate::cover::{backends_of, lacks};
use crate::support::{Runner, assert_matches, assert_same_bits, cases, cut, length_axis, prepare, test};

pub(crate) fn tests() -> Vec<Trial> {
    let mut trials =
        vec![test(every_operator_with_a_state_has_cases_in_pieces), test(a_long_sequence_of_no_round_length)];
    for op in OPS {
        let of = |case: Case| Trial::ignorable_test(format!("pieces::{}::{case}", op.name), move || one(op, &case));
        trials.extend(cases(op).into_iter().filter(|case| may_be_cut(op, case)).map(of));
    }
    trials
}

/// Whether a case is run in pieces: a quick one of a recurrent operator that carries a state over enough tokens of one
/// sequence.
fn may_be_cut(op: &Op, case: &Case) -> bool {
    let packed = case.with.contains(&"cu_seqlens");
    op.recurrent && case.quick && case.carry && !packed && case.axis(op, "N").is_some_and(|n| n >= 6)
}

fn every_operator_with_a_state_has_cases_in_pieces() {
    for op in OPS.iter().filter(|op| op.recurrent) {
        let of = |segment: bool| {
            (op.cases)().iter().any(|c| may_be_cut(op, c) && c.flags.word("segment").is_some() == segment)
        };
        assert!(of(false) && of(true), "{}: no case in pieces with and without a segment", op.name);
    }
}

/// Pieces one behind the other along an axis; f32 holds the values of each storage type.
pub(crate) fn join(pieces: &[HostTensor], axis: usize) -> HostTensor {
    let mut dims = pieces[0].shape().dims().to_vec();
    let inner: usize = dims[axis + 1..].iter().product();
    let blocks: usize = dims[..axis].iter().product();
    dims[axis] = pieces.iter().map(|piece| piece.shape().dims()[axis]).sum();
    let values: Vec<Vec<f32>> = pieces.iter().map(HostTensor::to_f32).collect();
    let block = |at: usize| {
        let of = move |(piece, values): (&HostTensor, &Vec<f32>)| {
            let size = piece.shape().dims()[axis] * inner;
            values[at * size..][..size].to_vec()
        };
        pieces.iter().zip(&values).flat_map(of)
    };
    HostTensor::f32(dims, (0..blocks).flat_map(block).collect()).cast(pieces[0].dtype())
}

/// Runs the pieces of a case between these cuts, each from the state that the one before left, and puts the outputs together.
/// A single token is decoded, unless there is a segment.
pub(crate) fn in_pieces(op: &Op, case: &Case, inputs: &TensorMap, cuts: &[usize], run: &Runner) -> TensorMap {
    let (mut state, mut pieces) = (TensorMap::new(), Vec::new());
    let slots = case.configure(op).unwrap().slots();
    let written = |spec: &&TensorSpec| slots.iter().any(|slot| slot.name == spec.name);
    let outputs: Vec<_> = op.outputs.iter().filter(written).collect();
    for ends in cuts.windows(2) {
        let (from, to) = (ends[0], ends[1]);
        let mut piece = case.clone();
        piece.axes.retain(|(letter, _)| !["N", "M"].contains(letter));
        piece.axes.push(("N", to - from));
        if to - from == 1 && case.flags.word("segment").is_none() {
            piece = piece.flag("decode", "true");
        }
        let part = |(name, tensor): (&str, &HostTensor)| {
            let axis = length_axis(op.inputs, case, name);
            (name.to_owned(), axis.map_or_else(|| tensor.clone(), |axis| cut(tensor, axis, from, to)))
        };
        let mut tensors: TensorMap = inputs.iter().map(part).collect();
        state.into_iter().for_each(|(name, tensor)| tensors.insert(name, tensor));
        state = run(piece.configure(op).unwrap().as_ref(), &tensors);
        pieces.push(outputs.iter().map(|spec| state.remove(spec.name).unwrap()).collect::<Vec<_>>());
    }
    for (at, spec) in outputs.iter().enumerate() {
        let of: Vec<HostTensor> = pieces.iter().map(|outputs| outputs[at].clone()).collect();
        state.insert(spec.name, join(&of, length_axis(op.outputs, case, spec.name).unwrap()));
    }
    state
}

/// No bit of the outputs and the state depends on the cuts.
pub(crate) fn assert_same_bits_in_pieces(op: &Op, case: &Case, cuts: &[usize], backend: &str, run: &Runner) {
    let (whole, inputs) = prepare(op, case);
    let (want, got) = (run(whole.as_ref(), &inputs), in_pieces(op, case, &inputs, cuts, run));
    assert_eq!(want.len(), got.len(), "{backend}");
    for (name, tensor) in want.iter() {
        assert_same_bits(&format!("{backend}, cut at {cuts:?}: {name}"), tensor, got.get(name).unwrap());
    }
}

fn one(op: &Op, case: &Case) -> Result<Completion, Failed> {
    let n = case.axis(op, "N").unwrap();
    let segment = case.flags.count(op.name, "segment").unwrap().filter(|segment| *segment < n);
    let cuts = match segment {
        Some(l) => {
            let inner = [l * (n / l / 2).max(1), l * ((n - 1) / l)];
            let mut cuts = vec![0, inner[0], inner[1], n];
            cuts.dedup();
            cuts
        }
        // Single tokens at both ends, and two long pieces of nearly the same length: the kernels of one serve the other, and
        // mostly the whole sequence too.
        None => vec![0, 1, n / 2, n - 2, n - 1, n],
    };
    let (whole, inputs) = prepare(op, case);
    for (backend, run) in backends_of(op, case) {
        let got = in_pieces(op, case, &inputs, &cuts, &run);
        assert_matches(&format!("{backend}, cut at {cuts:?}"), whole.as_ref(), &inputs, &got);
        if segment.is_some() {
            assert_same_bits_in_pieces(op, case, &cuts, backend, &run);
        }
    }
    Ok(match lacks(case.dtype) {
        Some(reason) => Completion::ignored_with(format!("in part: {reason}")),
        None => Completion::Completed,
    })
}

/// A length that others have failed at, in two pieces against one.
fn a_long_sequence_of_no_round_length() {
    let gated = Case::new("gated", &[("H", 1), ("N", 43_884), ("D", 6), ("E", 5)]).flag("rule", "gated").carry();
    let ssd = Case::new("ssd", &[("N", 43_884), ("H", 1), ("P", 4), ("G", 1), ("S", 4)]).with("a").carry();
    for (op, case) in
        [("linear", gated.clone().with("g")), ("linear", gated.with("g.D")), ("ssd", ssd.with("dt_bias").with("d"))]
    {
        let op = find(op).unwrap();
        let (operator, inputs) = prepare(op, &case);
        let run: Runner = Box::new(|c: &dyn Operator, tensors: &TensorMap| c.cpu(tensors).unwrap());
        let whole = run(operator.as_ref(), &inputs);
        assert_matches(&case.name, operator.as_ref(), &inputs, &whole);
        let two = in_pieces(op, &case, &inputs, &[0, 21_942, 43_884], &run);
        let [got, want] = [&two, &whole].map(|map| map.get(op.outputs[0].name).unwrap().to_f64());
        let error = tolerance::relative_rms(&got, &want);
        assert!(error < 1e-6, "{}: {error:.2e}", case.name);
    }
}
