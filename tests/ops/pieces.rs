//! A sequence in pieces, each from the state that the one before left, is the sequence: `pieces::OP::CASE`.
//!
//! Every quick case that carries a state is one. Without a segment it is cut anywhere, pieces of one token are decoded, and
//! the bound is that of the definition; with a segment it is cut at multiples of it, and no bit may differ.

use libtest_mimic::{Completion, Failed, Trial};
use subquad::catalog::case::Case;
use subquad::catalog::spec::{Op, Role, TensorSpec};
use subquad::ops::OPS;
use subquad::tensor::{DType, HostTensor, TensorMap, Values};

use crate::support::{assert_matches, assert_same_bits, backends_for, cases, prepare, test};

pub fn tests() -> Vec<Trial> {
    let mut trials = vec![test(every_operator_with_a_state_has_cases_in_pieces)];
    for op in OPS {
        let of = |case: Case| Trial::ignorable_test(format!("pieces::{}::{case}", op.name), move || one(op, &case));
        trials.extend(cases(op).into_iter().filter(|case| in_pieces(op, case)).map(of));
    }
    trials
}

/// Whether a case is run in pieces: a quick one of a recurrent operator that carries a state over enough tokens.
fn in_pieces(op: &Op, case: &Case) -> bool {
    op.recurrent && case.quick && case.carry && case.axis(op, "N").is_some_and(|n| n >= 6)
}

fn every_operator_with_a_state_has_cases_in_pieces() {
    for op in OPS.iter().filter(|op| op.recurrent) {
        let of = |segment: bool| {
            (op.cases)().iter().any(|c| in_pieces(op, c) && c.flags.word("segment").is_some() == segment)
        };
        assert!(of(false) && of(true), "{}: no case in pieces with and without a segment", op.name);
    }
}

/// Where a tensor of the row has the length, if it has one.
fn length_axis(specs: &[TensorSpec], case: &Case, name: &str) -> Option<usize> {
    let spec = specs.iter().find(|spec| spec.name == name && spec.role == Role::Sequence)?;
    spec.letters(case.layout).iter().position(|letter| ["N", "M"].contains(letter))
}

/// Tokens `from..to` along an axis.
fn cut(tensor: &HostTensor, axis: usize, from: usize, to: usize) -> HostTensor {
    fn part<T: Copy>(values: &[T], row: usize, from: usize, to: usize) -> Vec<T> {
        values.chunks_exact(row).flat_map(|row| &row[from..to]).copied().collect()
    }
    let mut dims = tensor.shape().dims().to_vec();
    let inner: usize = dims[axis + 1..].iter().product();
    let (row, from_at, to_at) = (dims[axis] * inner, from * inner, to * inner);
    dims[axis] = to - from;
    let values = match tensor.values() {
        Values::F32(v) => Values::F32(part(v, row, from_at, to_at)),
        Values::F16(v) => Values::F16(part(v, row, from_at, to_at)),
        Values::I64(v) => Values::I64(part(v, row, from_at, to_at)),
        Values::U32(v) => Values::U32(part(v, row, from_at, to_at)),
    };
    HostTensor::new(dims, values)
}

/// Pieces one behind the other along an axis; f32 holds the values of each storage type.
fn join(pieces: &[HostTensor], axis: usize) -> HostTensor {
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
        // One token, an odd number of them, most, and single ones at the end.
        None => vec![0, 1, n / 4 + 1, n - 2, n - 1, n],
    };
    let (whole, inputs) = prepare(op, case);
    for (backend, run) in backends_for(case.dtype) {
        let (mut state, mut pieces) = (TensorMap::new(), Vec::new());
        for ends in cuts.windows(2) {
            let (from, to) = (ends[0], ends[1]);
            let mut piece = case.clone();
            piece.axes.retain(|(letter, _)| !["N", "M"].contains(letter));
            piece.axes.push(("N", to - from));
            if to - from == 1 && case.flags.word("segment").is_none() {
                piece = piece.flag("decode", "true");
            }
            let mut tensors: TensorMap = inputs
                .iter()
                .map(|(name, tensor)| {
                    let axis = length_axis(op.inputs, case, name);
                    (name.to_owned(), axis.map_or_else(|| tensor.clone(), |axis| cut(tensor, axis, from, to)))
                })
                .collect();
            state.into_iter().for_each(|(name, tensor)| tensors.insert(name, tensor));
            state = run(piece.configure(op).unwrap().as_ref(), &tensors);
            pieces.push(op.outputs.iter().map(|spec| state.remove(spec.name).unwrap()).collect::<Vec<_>>());
        }
        let mut got = state;
        for (at, spec) in op.outputs.iter().enumerate() {
            let of: Vec<HostTensor> = pieces.iter().map(|outputs| outputs[at].clone()).collect();
            got.insert(spec.name, join(&of, length_axis(op.outputs, case, spec.name).unwrap()));
        }
        assert_matches(&format!("{backend}, cut at {cuts:?}"), op, whole.as_ref(), &inputs, &got);
        if segment.is_some() {
            let want = run(whole.as_ref(), &inputs);
            assert_eq!(want.len(), got.len(), "{backend}");
            for (name, tensor) in want.iter() {
                assert_same_bits(&format!("{backend}, cut at {cuts:?}: {name}"), tensor, got.get(name).unwrap());
            }
        }
    }
    if case.dtype == DType::F16 && backends_for(case.dtype).count() < 2 {
        return Ok(Completion::ignored_with("in part: no f16 on this adapter"));
    }
    Ok(Completion::Completed)
}
