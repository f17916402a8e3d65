//! Runs that are composed of plain ones, for every operator whose slots name their axis along the sequence: packed
//! sequences, runs from the last token to the first, sums of both directions, and states with their axes exchanged.
//!
//! The tensors are cut along the tokens and the states along their first axis, the operator's own algorithm runs over
//! each sequence, and the outputs are joined. The `cpu` backend and the references share this, so that an operator
//! implements none of it.

use std::ops::Range;
#[cfg(feature = "cpu")]
use std::sync::OnceLock;

use super::mode::{Direction, Mode, StateLayout};
use super::{Configured, LogDecayFn, Operator, Precision, ReferenceOutputs, Rows, progress};
#[cfg(feature = "cpu")]
use crate::cpu::{memory, threads};
use crate::error::Error;
use crate::tensor::{Access, DType, HostTensor, Part, Slot, TensorMap, Values, axes};

/// Name of the tensor with the borders of packed sequences.
const BORDERS: &str = "cu_seqlens";

/// Name of the tensor whose last two axes follow [`Mode::state_layout`].
const STATE: &str = "state";

/// Refuses borders of packed sequences that do not start at 0, decrease, or do not end at N.
///
/// # Errors
/// [`Error::Tensor`].
pub(super) fn check_mode<C: Configured>(config: &C, tensors: &TensorMap) -> Result<(), Error> {
    if config.mode().sequences.is_none() {
        return Ok(());
    }
    check_borders(C::ALGORITHM.name, length(&Operator::slots(config)), tensors)
}

/// Does the same for an operator of that name over so many tokens whose mode has no packed sequences, because it runs them by
/// itself.
pub(crate) fn check_borders(op: &'static str, length: usize, tensors: &TensorMap) -> Result<(), Error> {
    let Some(Values::U32(borders)) = tensors.get(BORDERS).map(HostTensor::values) else { return Ok(()) };
    let refuse = |expected: String, found: String| Err(Error::tensor(op, BORDERS, expected, found));
    if let Some(first) = borders.first().filter(|first| **first != 0) {
        return refuse("0 as its first value".into(), first.to_string());
    }
    if let Some(at) = borders.windows(2).position(|pair| pair[1] < pair[0]) {
        let found = format!("{} after {} at {}", borders[at + 1], borders[at], at + 1);
        return refuse("values that do not decrease".into(), found);
    }
    match borders.last() {
        Some(&last) if last as usize != length => refuse(format!("N = {length} as its last value"), last.to_string()),
        _ => Ok(()),
    }
}

/// Number of tokens of the run.
fn length(slots: &[Slot]) -> usize {
    let along = |part: &Part| Some(part.shape.dims()[part.tokens?]);
    slots.iter().flat_map(|slot| &slot.parts).find_map(along).unwrap_or(0)
}

/// A composed run: the mode, the tensors, and where the sequences begin and end.
struct Composed<'a, C> {
    config: &'a C,
    mode: Mode,
    slots: Vec<Slot>,
    tensors: &'a TensorMap,
    sequences: Vec<Range<usize>>,
}

impl<'a, C: Configured> Composed<'a, C> {
    fn new(config: &'a C, tensors: &'a TensorMap) -> Self {
        let (mode, slots) = (config.mode(), Operator::slots(config));
        let sequences = match tensors.get(BORDERS).map(HostTensor::values) {
            Some(Values::U32(borders)) if mode.sequences.is_some() => {
                borders.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect()
            }
            _ => std::iter::once(0..length(&slots)).collect(),
        };
        Self { config, mode, slots, tensors, sequences }
    }

    fn parts(&self, access: Access) -> impl Iterator<Item = &Part> {
        self.slots.iter().filter(move |slot| slot.access == access).flat_map(|slot| &slot.parts)
    }

    /// The runs of a sequence: whether each takes the tokens from the last to the first.
    fn runs(&self) -> &'static [bool] {
        match self.mode.direction {
            Direction::Forward => &[false],
            Direction::Backward => &[true],
            Direction::Both => &[false, true],
        }
    }

    /// The storage type of the runs: the outputs of both directions are added before they are rounded.
    fn storage(&self, dtype: DType) -> DType {
        if self.mode.direction == Direction::Both && dtype == DType::F16 { DType::F32 } else { dtype }
    }

    /// The configuration of one sequence.
    fn config(&self, at: usize) -> C {
        let stored = self.parts(Access::Write).next().map_or(DType::F32, |part| part.dtype);
        self.config.plain(self.sequences[at].len(), self.storage(stored))
    }

    /// The numbers of the tokens of a sequence, in the order of a run.
    fn tokens(&self, at: usize, reversed: bool) -> Vec<usize> {
        let tokens = self.sequences[at].clone();
        if reversed { tokens.rev().collect() } else { tokens.collect() }
    }

    fn is_exchanged(&self, part: &Part) -> bool {
        part.name == STATE && self.mode.state_layout == StateLayout::Ed
    }

    /// What a state tensor of the whole run holds for one sequence.
    fn state(&self, at: usize, tensor: &HostTensor) -> HostTensor {
        if self.mode.sequences.is_some() { tensor.select(0, &[at]) } else { tensor.clone() }
    }

    /// The tensors of one sequence.
    fn inputs(&self, at: usize, reversed: bool) -> TensorMap {
        let tokens = self.tokens(at, reversed);
        let mut inputs = TensorMap::new();
        for part in self.parts(Access::Read).filter(|part| part.name != BORDERS) {
            let Some(tensor) = self.tensors.get(part.name) else { continue };
            let tensor = match part.tokens {
                Some(axis) => tensor.select(axis, &tokens).cast(self.storage(part.dtype)),
                None => tensor.clone(),
            };
            inputs.insert(part.name, tensor);
        }
        for part in self.parts(Access::Update) {
            let Some(state) = self.tensors.get(part.name).map(|tensor| self.state(at, tensor)) else { continue };
            inputs.insert(part.name, if self.is_exchanged(part) { state.exchanged() } else { state });
        }
        inputs
    }

    /// The outputs of a run in the order of the tokens.
    #[cfg(feature = "cpu")]
    fn forward(&self, at: usize, reversed: bool, mut outputs: TensorMap) -> TensorMap {
        if !reversed {
            return outputs;
        }
        let back: Vec<usize> = (0..self.sequences[at].len()).rev().collect();
        for part in self.parts(Access::Write) {
            if let (Some(axis), Some(tensor)) = (part.tokens, outputs.remove(part.name)) {
                outputs.insert(part.name, tensor.select(axis, &back));
            }
        }
        outputs
    }

    /// Puts the outputs of a backward reference, of this number of rows, in the order of the tokens.
    fn turn_rows(&self, outputs: &mut ReferenceOutputs, rows: usize) {
        let back: Vec<usize> = (0..rows).rev().collect();
        for part in self.parts(Access::Write).filter(|part| part.tokens.is_some()) {
            if let Some((_, values)) = outputs.iter_mut().find(|(name, _)| *name == part.name) {
                *values = axes::select(values, [rows, along(part).1], &back);
            }
        }
    }

    /// The state after a sequence without tokens: the one given, or the initial one.
    fn state_before(&self, at: usize, part: &Part) -> HostTensor {
        match self.tensors.get(part.name) {
            Some(tensor) => self.state(at, tensor),
            None => {
                let count = part.shape.count() / self.sequences.len();
                HostTensor::f32([count], vec![part.initial; count]).cast(part.dtype)
            }
        }
    }
}

/// The axis of an output along the sequence, and the number of elements behind one of its positions.
fn along(part: &Part) -> (usize, usize) {
    let axis = part.tokens.unwrap_or(0);
    (axis, part.shape.dims()[axis + 1..].iter().product())
}

/// Adds outputs in f32. Whole numbers, such as codes of values, are the same in both runs and are not added.
#[cfg(feature = "cpu")]
fn sums(one: &TensorMap, other: &TensorMap) -> TensorMap {
    let sum = |(name, tensor): (&str, &HostTensor)| {
        if !tensor.dtype().is_float() {
            return (name.to_owned(), tensor.clone());
        }
        let mut values = tensor.to_f32();
        let others = other.get(name).map(HostTensor::to_f32).unwrap_or_default();
        values.iter_mut().zip(others).for_each(|(x, y)| *x += y);
        (name.to_owned(), HostTensor::f32(tensor.shape().clone(), values))
    };
    one.iter().map(sum).collect()
}

/// Adds outputs of the reference, in its precision, if `added` says so of their names.
fn add(
    sums: &mut ReferenceOutputs,
    others: &ReferenceOutputs,
    precision: Precision,
    added: impl Fn(&'static str) -> bool,
) {
    for ((_, sum), (_, other)) in sums.iter_mut().zip(others).filter(|((name, _), _)| added(name)) {
        for (x, y) in sum.iter_mut().zip(other) {
            *x = if precision == Precision::F32 { f64::from(*x as f32 + *y as f32) } else { *x + y };
        }
    }
}

/// Runs the `cpu` backend of an operator, in as many plain runs as its mode needs. The inputs have been checked.
#[cfg(feature = "cpu")]
pub(super) fn cpu<C: Configured>(config: &C, tensors: &TensorMap) -> TensorMap {
    let (run, mode) = (C::ALGORITHM.cpu.run, config.mode());
    let direction = if C::ALGORITHM.cpu.directed { Direction::Forward } else { mode.direction };
    if !mode.direction(direction).is_composed() {
        return run(config, tensors);
    }
    let whole = Composed::new(config, tensors);
    // The tensors of the sequences are copies.
    memory::claim::<f32>(usize::try_from(config.elements()).unwrap_or(usize::MAX));
    let done: Vec<OnceLock<TensorMap>> = whole.sequences.iter().map(|_| OnceLock::new()).collect();
    threads::each(whole.sequences.len(), Operator::cost(config).flops as u64, |at| {
        if whole.sequences[at].is_empty() {
            return;
        }
        let config = whole.config(at);
        let one = |reversed: bool| run(&config, &whole.inputs(at, reversed));
        let runs = whole.runs().iter().map(|&reversed| whole.forward(at, reversed, one(reversed)));
        drop(done[at].set(runs.reduce(|sum, other| sums(&sum, &other)).unwrap_or_default()));
    });
    joined(&whole, &done.into_iter().map(OnceLock::into_inner).collect::<Vec<_>>())
}

/// Joins the outputs of the sequences, none for one without tokens, and their states.
#[cfg(feature = "cpu")]
fn joined<C: Configured>(whole: &Composed<'_, C>, done: &[Option<TensorMap>]) -> TensorMap {
    let mut joined = TensorMap::new();
    for part in whole.parts(Access::Write) {
        let of = |outputs: &TensorMap| Some(outputs.get(part.name)?.cast(part.dtype));
        let pieces: Vec<HostTensor> = done.iter().flatten().filter_map(of).collect();
        joined.insert(part.name, HostTensor::join(&pieces, along(part).0));
    }
    for part in whole.parts(Access::Update) {
        let of = |(at, outputs): (usize, &Option<TensorMap>)| match outputs.as_ref().and_then(|all| all.get(part.name))
        {
            Some(state) if whole.is_exchanged(part) => state.exchanged(),
            Some(state) => state.clone(),
            None => whole.state_before(at, part),
        };
        let flat = |state: HostTensor| {
            let count = state.shape().count();
            state.reshape([count])
        };
        let states: Vec<HostTensor> = done.iter().enumerate().map(of).map(flat).collect();
        joined.insert(part.name, HostTensor::join(&states, 0).reshape(part.shape.clone()));
    }
    joined
}

/// The log decay of a run ([`super::LogDecayFn`]): that of each packed sequence, with the axes in the order of the state.
pub(super) fn log_decay<C: Configured>(config: &C, tensors: &TensorMap, of: LogDecayFn<C>) -> HostTensor {
    if !config.mode().is_composed() {
        return of(config, tensors);
    }
    let whole = Composed::new(config, tensors);
    let some = |at: usize| !whole.sequences[at].is_empty();
    let one = |at: usize| of(&whole.config(at), &whole.inputs(at, false));
    let mut decays: Vec<Option<HostTensor>> = (0..whole.sequences.len()).map(|at| some(at).then(|| one(at))).collect();
    // A sequence without tokens keeps its state.
    let shape = decays.iter().flatten().next().map(|decay| decay.shape().clone());
    for decay in decays.iter_mut().filter(|decay| decay.is_none()) {
        *decay = shape.clone().map(|shape| HostTensor::f32(shape.clone(), vec![0.0; shape.count()]));
    }
    let joined = HostTensor::join(&decays.into_iter().flatten().collect::<Vec<_>>(), 0);
    if whole.mode.state_layout == StateLayout::Ed { joined.exchanged() } else { joined }
}

/// Computes the reference of an operator, in as many plain runs as its mode needs.
pub(super) fn reference<C: Configured>(
    config: &C,
    tensors: &TensorMap,
    precision: Precision,
    rows: Rows<'_>,
) -> ReferenceOutputs {
    let run = C::ALGORITHM.reference[precision as usize];
    if !config.mode().is_composed() {
        return run(config, tensors, rows);
    }
    let whole = Composed::new(config, tensors);
    let (all, wanted) = (length(&whole.slots) * whole.runs().len(), rows.of(length(&whole.slots)));
    let mut done = 0;
    let mut sequences = Vec::new();
    for (at, range) in whole.sequences.iter().enumerate() {
        let before = |token: usize| wanted.partition_point(|row| *row < token);
        let rows = &wanted[before(range.start)..before(range.end)];
        let mut outputs = ReferenceOutputs::new();
        for &reversed in whole.runs().iter().filter(|_| !range.is_empty()) {
            let mut local: Vec<usize> = rows.iter().map(|row| row - range.start).collect();
            if reversed {
                local = local.into_iter().rev().map(|row| range.len() - 1 - row).collect();
            }
            let config = whole.config(at);
            let (start, end) = (done as f64 / all as f64, (done + range.len()) as f64 / all as f64);
            let of = || run(&config, &whole.inputs(at, reversed), Rows::At(&local));
            let mut found = progress::within(start..end, of);
            done += range.len();
            if reversed {
                whole.turn_rows(&mut found, rows.len());
            }
            if outputs.is_empty() {
                outputs = found;
            } else {
                let float = |name| whole.parts(Access::Write).all(|part| part.name != name || part.dtype.is_float());
                add(&mut outputs, &found, precision, float);
            }
        }
        sequences.push((rows.len(), outputs));
    }
    let of = |outputs: &ReferenceOutputs, part: &Part| {
        outputs.iter().find(|(name, _)| *name == part.name).map(|(_, values)| values.clone())
    };
    let mut joined = ReferenceOutputs::new();
    for part in whole.parts(Access::Write) {
        let pieces: Vec<_> = sequences.iter().filter_map(|(rows, outputs)| Some((*rows, of(outputs, part)?))).collect();
        let pieces: Vec<_> = pieces.iter().filter(|(rows, _)| *rows > 0).map(|(rows, v)| (*rows, &v[..])).collect();
        joined.push((part.name, axes::join(&pieces, along(part).1)));
    }
    for part in whole.parts(Access::Update) {
        let state = |(at, (_, outputs)): (usize, &(usize, ReferenceOutputs))| match of(outputs, part) {
            Some(state) if whole.is_exchanged(part) => {
                let [columns, rows] = last(part);
                axes::exchange(&state, [rows, columns])
            }
            Some(state) => state,
            None => whole.state_before(at, part).to_f64(),
        };
        joined.push((part.name, sequences.iter().enumerate().flat_map(state).collect()));
    }
    joined
}

/// The last two axes of a tensor.
fn last(part: &Part) -> [usize; 2] {
    match *part.shape.dims() {
        [.., rows, columns] => [rows, columns],
        _ => [1, 1],
    }
}
