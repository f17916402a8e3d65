//! `--verify`: the outputs of a run compared with the reference, with progress, since the reference can take minutes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::options::Options;
use super::report::Ui;
use crate::catalog::spec::Op;
use crate::cpu::memory;
use crate::error::Error;
use crate::operator::progress::Share;
use crate::operator::{Operator, Precision, ReferenceOutputs, Rows};
use crate::tensor::{Layout, TensorMap};
use crate::verify::tolerance::{Comparison, Reference};

/// Flops of one piece of a reference that is computed in pieces: a fraction of a second of plain loops.
const PIECE: f64 = 5e7;
/// Pieces at most: each reads all inputs again.
const PIECES: usize = 100;
/// Threads at most: each holds the inputs as f64.
const THREADS: usize = 8;

/// Bytes of an element of a tensor in the reference: in both precisions of the definition, and nudged.
const BYTES: u64 = 8 + 8 + 4 + 4;

/// Refuses shapes whose reference does not fit into memory.
pub(super) fn check_memory(op: &Op, operator: &dyn Operator) -> Result<(), Error> {
    // Only references whose rows are apart run on several threads, each with the inputs as f64.
    let copies = if op.rows_apart { threads() as u64 } else { 2 };
    let elements = operator.elements().saturating_add(operator.state_elements());
    memory::check_bytes(op.name, "--verify", elements.saturating_mul(BYTES + 8 * copies))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// Compares all outputs and all parts of the state with the reference.
pub(super) fn verify(
    op: &Op,
    operator: &dyn Operator,
    inputs: &TensorMap,
    outputs: &TensorMap,
    options: &Options,
    ui: &Ui,
) -> Vec<(String, Comparison)> {
    let (layout, causal) = (options.layout, options.flags.switch("causal") != Some(false));
    let pieces = pieces(op, operator, outputs, layout);
    let run = |what: &str, inputs: &TensorMap, precisions: &[Precision]| {
        let what = format!("{}: {what}", op.name);
        if pieces.len() < 2 {
            let shares: Vec<_> = precisions.iter().map(|at| (*at, Share::default())).collect();
            let one = |(at, share): &(Precision, Share)| share.of(|| operator.reference(inputs, *at, Rows::All));
            let mean = || Some(shares.iter().map(|(_, share)| share.get()).sum::<f64>() / shares.len() as f64);
            return ui.watched(&what, &mean, || shares.par_iter().map(one).collect());
        }
        let parts =
            in_pieces(operator, inputs, precisions, &pieces, causal, |share, work| ui.watched(&what, share, work));
        parts.iter().map(|parts| joined(op, parts, layout, outputs)).collect::<Vec<_>>()
    };
    let mut both = run("computing the reference", inputs, &[Precision::F64, Precision::F32]).into_iter();
    let reference = Reference::new(both.next().unwrap_or_default(), both.next().unwrap_or_default());
    let again = |inputs: &TensorMap| {
        let what = "computing the reference again, with inputs changed in their last place";
        run(what, inputs, &[Precision::F32]).pop().unwrap_or_default()
    };
    reference.compare_with(op.name, outputs, &again, inputs)
}

/// A piece of the reference: its rows and its outputs.
type Part<'a> = (&'a [usize], ReferenceOutputs);

/// The reference in pieces, on several threads, for each of these precisions. `watch` runs the work and shows its share.
fn in_pieces<'a>(
    operator: &dyn Operator,
    inputs: &TensorMap,
    precisions: &[Precision],
    pieces: &'a [Vec<usize>],
    causal: bool,
    watch: impl FnOnce(&dyn Fn() -> Option<f64>, &(dyn Fn() + Sync)),
) -> Vec<Vec<Part<'a>>> {
    // All precisions of every piece, the longest (the last rows, under a causal mask) first.
    let jobs: Vec<_> = (0..pieces.len()).rev().flat_map(|at| precisions.iter().map(move |of| (at, *of))).collect();
    // Under a causal mask a row takes as long as it sees keys.
    let weight = |rows: &[usize]| if causal { rows.iter().map(|row| row + 1).sum() } else { rows.len() };
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found = Mutex::new(Vec::new());
    let worker = || {
        while let Some(&(at, precision)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let part = operator.reference(inputs, precision, Rows::At(&pieces[at]));
            found.lock().unwrap_or_else(PoisonError::into_inner).push((at, precision, part));
            done.fetch_add(weight(&pieces[at]), Ordering::Relaxed);
        }
    };
    let all = precisions.len() * pieces.iter().map(|rows| weight(rows)).sum::<usize>();
    watch(&|| Some(done.load(Ordering::Relaxed) as f64 / all as f64), &|| {
        std::thread::scope(|scope| (0..threads()).for_each(|_| drop(scope.spawn(worker))));
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(at, ..)| *at);
    let mut parts: Vec<Vec<Part<'_>>> = precisions.iter().map(|_| Vec::new()).collect();
    for (at, precision, part) in found {
        if let Some(of) = precisions.iter().position(|of| *of == precision) {
            parts[of].push((&pieces[at], part));
        }
    }
    parts
}

/// Rows along the length, in pieces that the reference can compute one after another: only where its rows do not depend on
/// each other and cost enough. One piece, or none, otherwise.
fn pieces(op: &Op, operator: &dyn Operator, outputs: &TensorMap, layout: Layout) -> Vec<Vec<usize>> {
    // A recurrence computes all earlier rows for the last one, and linformer its projections for each.
    if !op.rows_apart {
        return Vec::new();
    }
    let length = op.outputs.iter().find_map(|spec| {
        let axis = axis(op, spec.name, layout)?;
        outputs.get(spec.name)?.shape().dims().get(axis).copied()
    });
    let count = ((operator.cost().flops / PIECE) as usize).min(PIECES);
    let Some(length) = length.filter(|_| count > 1) else { return Vec::new() };
    let size = length.div_ceil(count);
    (0..length).step_by(size).map(|start| (start..length.min(start + size)).collect()).collect()
}

/// The axis of an output that runs along the length.
fn axis(op: &Op, output: &str, layout: Layout) -> Option<usize> {
    let spec = op.outputs.iter().find(|spec| spec.name == output)?;
    spec.letters(layout).iter().position(|letter| *letter == "N")
}

/// Pieces of a reference put together along the length. What has no length is the same in all of them.
fn joined(op: &Op, parts: &[Part<'_>], layout: Layout, outputs: &TensorMap) -> ReferenceOutputs {
    let Some((_, first)) = parts.first() else { return ReferenceOutputs::new() };
    let one = |at: usize, name: &'static str, values: &Vec<f64>| {
        let shape = outputs.get(name).map(|tensor| tensor.shape().dims());
        let (Some(axis), Some(dims)) = (axis(op, name, layout), shape) else { return (name, values.clone()) };
        let (length, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
        let mut whole = vec![0.0; dims.iter().product()];
        for (rows, part) in parts {
            let blocks = whole.chunks_exact_mut(length * inner).zip(part[at].1.chunks_exact(rows.len() * inner));
            for (block, part) in blocks {
                for (row, values) in rows.iter().zip(part.chunks_exact(inner)) {
                    block[row * inner..][..inner].copy_from_slice(values);
                }
            }
        }
        (name, whole)
    };
    first.iter().enumerate().map(|(at, (name, values))| one(at, name, values)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::case::Case;
    use crate::catalog::random;
    use crate::verify::run;

    #[test]
    fn a_reference_in_pieces_equals_the_whole() {
        for (name, layout) in [("softmax", Layout::Bhnd), ("yat", Layout::Bnhd), ("mta", Layout::Bhnd)] {
            let op = crate::ops::find(name).unwrap();
            let with = if name == "mta" { &["kq_pre", "kq_post"][..] } else { &[] };
            let mut case = Case::new("pieces", &[("B", 2), ("H", 2), ("N", 37), ("D", 5), ("E", 3)]).layout(layout);
            case.with = with.to_vec();
            case.complete(op);
            let operator = case.configure(op).unwrap();
            let inputs = random::inputs(op, &case).unwrap();
            let outputs = run::cpu(&*operator, &inputs).unwrap().outputs;
            let whole = operator.reference(&inputs, Precision::F64, Rows::All);
            let rows: Vec<Vec<usize>> = [0..10, 10..36, 36..37].into_iter().map(Iterator::collect).collect();
            let parts: Vec<Part<'_>> = rows
                .iter()
                .map(|rows| (&rows[..], operator.reference(&inputs, Precision::F64, Rows::At(rows))))
                .collect();
            assert_eq!(joined(op, &parts, layout, &outputs), whole, "{name}");
        }
    }

    #[test]
    fn long_attention_is_split_and_recurrences_are_not() {
        for (name, length, least, most) in [("softmax", 4096, 10, 100), ("softmax", 64, 0, 1), ("linear", 4096, 0, 0)] {
            let op = crate::ops::find(name).unwrap();
            let mut case = Case::new("split", &[("H", 2), ("N", length), ("D", 64)]);
            case.complete(op);
            let operator = case.configure(op).unwrap();
            let o = crate::tensor::HostTensor::zeros([1, 2, length, 64], crate::tensor::DType::F32);
            let outputs: TensorMap = [("o".to_owned(), o)].into_iter().collect();
            let pieces = pieces(op, &*operator, &outputs, Layout::Bhnd);
            assert!((least..=most).contains(&pieces.len()), "{name} {length}: {}", pieces.len());
            if pieces.len() > 1 {
                assert_eq!(pieces.concat(), (0..length).collect::<Vec<_>>());
            }
        }
    }
}
