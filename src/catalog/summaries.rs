//! Summaries of pieces of a sequence. A piece changes whatever state enters it: the state decays, and the piece adds the state
//! that it makes of itself. A summary holds both, so that pieces can run side by side and be folded in order afterwards. The
//! arithmetic is in f64. An operator says here which tensors a summary has, and adds what is particular to it.

use super::domain::Domain;
use super::spec::TensorSpec;
use crate::tensor::{DType, HostTensor, Layout, TensorMap, Values};

/// The logarithm of the decay that a piece applies, with the axes of the first state tensor. An axis along which the decay is
/// the same has length 1.
pub const DECAY: TensorSpec = TensorSpec::state("decay", "").of(Domain::LogDecay);

/// Prepares the folding of summaries that were made with these settings. The error is a sentence without the name of the file.
pub type Summaries = fn(&Settings<'_>) -> Result<Box<dyn Fold>, String>;

/// The settings that a file says made it, by name.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a>(pub &'a [(String, String)]);

impl<'a> Settings<'a> {
    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether the rows of a state are its values (`--state-layout ed`) and not its keys.
    pub fn values_first(&self) -> bool {
        self.get("state-layout") == Some("ed")
    }
}

/// How an operator folds summaries.
pub trait Fold {
    /// The state tensors that a summary has beside [`DECAY`], with their axes in the order of the file.
    fn tensors(&self) -> &[TensorSpec];

    /// Takes a state through the next piece: by default it decays, and the sums of the piece are added.
    ///
    /// # Errors
    /// A sentence about the tensor of the piece that cannot be folded.
    fn fold(&self, state: &mut State, piece: &mut Summary) -> Result<(), String> {
        state.combine(&piece.own, &piece.decay, None);
        Ok(())
    }
}

/// The folding of an operator whose state tensors are all sums.
#[derive(Debug)]
pub struct Sums<const K: usize>(pub [TensorSpec; K]);

impl<const K: usize> Fold for Sums<K> {
    fn tensors(&self) -> &[TensorSpec] {
        &self.0
    }
}

/// A tensor in f64 whose axes have letters.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers {
    /// Letter of each axis.
    pub axes: Vec<&'static str>,
    /// Length of each axis.
    pub dims: Vec<usize>,
    /// The values, the last axis innermost.
    pub values: Vec<f64>,
}

impl Numbers {
    /// Number of values that lie outside an axis, the length of that axis, and the number of values inside one index of it.
    pub fn around(&self, letter: &str) -> Option<[usize; 3]> {
        let at = self.axes.iter().position(|axis| *axis == letter)?;
        let count = |dims: &[usize]| dims.iter().product();
        Some([count(&self.dims[..at]), self.dims[at], count(&self.dims[at + 1..])])
    }

    /// These values at every element of `like`, by the letters of the axes. An axis that this tensor lacks, or has with
    /// length 1, does not change the value.
    pub fn over(&self, like: &Self) -> Vec<f64> {
        let mut steps = vec![0; like.dims.len()];
        let mut step = 1;
        for (letter, length) in self.axes.iter().zip(&self.dims).rev() {
            if let Some(at) = like.axes.iter().position(|axis| axis == letter).filter(|_| *length > 1) {
                steps[at] = step;
            }
            step *= length;
        }
        let mut index = vec![0; like.dims.len()];
        let mut at = 0;
        let next = |_| {
            let value = self.values[at];
            for (axis, length) in like.dims.iter().enumerate().rev() {
                index[axis] += 1;
                at += steps[axis];
                if index[axis] < *length {
                    break;
                }
                at -= steps[axis] * length;
                index[axis] = 0;
            }
            value
        };
        (0..like.values.len()).map(next).collect()
    }
}

/// `e^log x`. Nothing stays nothing however large the factor is, and a decay to nothing clears infinity too.
fn scaled(x: f64, log: f64) -> f64 {
    let factor = log.exp();
    if x == 0.0 || factor == 0.0 { 0.0 } else { x * factor }
}

/// The tensors of a state.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    /// Tensors of numbers, by name.
    pub numbers: Vec<(&'static str, Numbers)>,
    /// Counts (`position`), by name.
    pub counts: Vec<(&'static str, Vec<i64>)>,
}

impl State {
    /// Reads the tensors of a state file and checks their shapes, which must agree with each other and with those of
    /// `like`, the state of another file.
    ///
    /// # Errors
    /// A sentence that names the tensor, without the file.
    pub fn read(specs: &[TensorSpec], tensors: &TensorMap, like: Option<(&Self, &str)>) -> Result<Self, String> {
        let mut state = Self::default();
        let mut lengths: Vec<(&str, usize)> = Vec::new();
        for spec in specs {
            let axes = spec.letters(Layout::Bhnd);
            let whole = spec.name == "position";
            let Some(tensor) = tensors.get(spec.name) else {
                let (expected, given) = (spec.forms(Layout::Bhnd), tensors.names());
                return Err(format!("tensor `{}`: expected {expected}, found none (given: {given})", spec.name));
            };
            let (dims, found) = (tensor.shape().dims(), format!("{} {}", tensor.dtype(), tensor.shape()));
            let refuse = |expected: &str| Err(format!("tensor `{}`: expected {expected}, found {found}", spec.name));
            if !(if whole { tensor.dtype() == DType::I64 } else { tensor.dtype().is_float() }) {
                return refuse(if whole { "whole numbers" } else { "f32 or f16" });
            }
            if dims.len() != axes.len() || dims.contains(&0) {
                return refuse(&format!("{} without an axis of length 0", spec.forms(Layout::Bhnd)));
            }
            if let Some((like, file)) = like
                && let Some(wanted) = like.dims(spec.name).filter(|wanted| *wanted != dims)
            {
                return refuse(&format!("{} as in {file}", crate::tensor::Shape::from(wanted)));
            }
            for (letter, length) in axes.iter().zip(dims) {
                // A count is one for all, or one for each sequence of a batch.
                let known = if *letter == "1" { &"B" } else { letter };
                match lengths.iter().find(|(other, _)| other == known) {
                    Some((_, other)) if other == length || (*letter == "1" && *length == 1) => {}
                    Some((_, other)) => return refuse(&format!("{known} = {other} as in `{}`", specs[0].name)),
                    None => lengths.push((letter, *length)),
                }
            }
            match tensor.values() {
                Values::I64(counts) => {
                    if let Some(count) = counts.iter().find(|count| **count < 0) {
                        let expected = "a whole number of 0 or more";
                        return Err(format!("tensor `{}`: expected {expected}, found {count}", spec.name));
                    }
                    state.counts.push((spec.name, counts.clone()));
                }
                _ => state.numbers.push((spec.name, Numbers { axes, dims: dims.to_vec(), values: tensor.to_f64() })),
            }
        }
        Ok(state)
    }

    /// Lengths of the axes of a tensor.
    fn dims(&self, name: &str) -> Option<&[usize]> {
        self.numbers.iter().find(|(known, _)| *known == name).map(|(_, numbers)| &numbers.dims[..])
    }

    /// The tensors as a state file has them, f32 and i64.
    pub fn to_tensors(&self) -> TensorMap {
        let numbers = self.numbers.iter().map(|(name, numbers)| {
            let values = numbers.values.iter().map(|x| *x as f32).collect();
            ((*name).to_owned(), HostTensor::f32(numbers.dims.clone(), values))
        });
        let counts = self
            .counts
            .iter()
            .map(|(name, counts)| ((*name).to_owned(), HostTensor::new([counts.len()], Values::I64(counts.clone()))));
        numbers.chain(counts).collect()
    }

    /// Takes a tensor of numbers out.
    pub fn take(&mut self, name: &str) -> Option<Numbers> {
        let at = self.numbers.iter().position(|(known, _)| *known == name)?;
        Some(self.numbers.remove(at).1)
    }

    /// A tensor of counts.
    pub fn counts_mut(&mut self, name: &str) -> Option<&mut Vec<i64>> {
        self.counts.iter_mut().find(|(known, _)| *known == name).map(|(_, counts)| counts)
    }

    /// Replaces every number x by `e^left x + e^right own`. Without `right`, `own` is added as it is.
    pub fn combine(&mut self, own: &Self, left: &Numbers, right: Option<&Numbers>) {
        for ((_, sums), (_, own)) in self.numbers.iter_mut().zip(&own.numbers) {
            let left = left.over(sums);
            let right = right.map(|right| right.over(sums));
            for (at, (x, own)) in sums.values.iter_mut().zip(&own.values).enumerate() {
                let own = right.as_ref().map_or(*own, |right| scaled(*own, right[at]));
                *x = scaled(*x, left[at]) + own;
            }
        }
    }
}

/// What a piece of a sequence does to any state that enters it.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The state that the piece makes of an empty one.
    pub own: State,
    /// The logarithm of the decay.
    pub decay: Numbers,
}

impl Summary {
    /// Reads the tensors of a summary. The arguments are those of [`State::read`].
    ///
    /// # Errors
    /// A sentence that names the tensor, without the file.
    pub fn read(specs: &[TensorSpec], tensors: &TensorMap, like: Option<(&State, &str)>) -> Result<Self, String> {
        let own = State::read(specs, tensors, like)?;
        let name = DECAY.name;
        let first = &specs[0];
        let Some(tensor) = tensors.get(name) else {
            return Err(format!(
                "tensor `{name}`: expected the axes of `{}`, found none (given: {})",
                first.name,
                tensors.names()
            ));
        };
        let axes = first.letters(Layout::Bhnd);
        let dims = tensor.shape().dims();
        let lengths = own.dims(first.name).unwrap_or_default();
        // Every tensor of the state decays: it must have the axes along which the decay differs.
        let fits = |at: usize, length: usize| {
            let everywhere = own.numbers.iter().all(|(_, numbers)| numbers.axes.contains(&axes[at]));
            length == 1 || (length == lengths[at] && everywhere)
        };
        let all = dims.len() == lengths.len() && dims.iter().enumerate().all(|(at, length)| fits(at, *length));
        if !all || !tensor.dtype().is_float() {
            let shape = crate::tensor::Shape::from(lengths);
            let expected = format!("f32 of a shape that broadcasts to {shape} of `{}` and to the others", first.name);
            return Err(format!("tensor `{name}`: expected {expected}, found {} {}", tensor.dtype(), tensor.shape()));
        }
        Ok(Self { own, decay: Numbers { axes, dims: dims.to_vec(), values: tensor.to_f64() } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(axes: &[&'static str], dims: &[usize], values: &[f64]) -> Numbers {
        Numbers { axes: axes.to_vec(), dims: dims.to_vec(), values: values.to_vec() }
    }

    #[test]
    fn values_are_broadcast_by_the_letters_of_their_axes() {
        let like = numbers(&["B", "D", "E"], &[2, 2, 3], &[0.0; 12]);
        let per_row = numbers(&["B", "D", "E"], &[2, 2, 1], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(per_row.over(&like), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0]);
        let without_values = numbers(&["B", "D"], &[2, 2], &[0.0; 4]);
        assert_eq!(per_row.over(&without_values), [1.0, 2.0, 3.0, 4.0]);
        let per_batch = numbers(&["B", "D", "E"], &[2, 1, 1], &[5.0, 6.0]);
        assert_eq!(per_batch.over(&without_values), [5.0, 5.0, 6.0, 6.0]);
    }

    #[test]
    fn nothing_and_infinity_decay_without_nan() {
        for (x, log, want) in [
            (0.0, 1e30, 0.0),
            (f64::INFINITY, f64::NEG_INFINITY, 0.0),
            (3.0, -1e30, 0.0),
            (3.0, 0.0, 3.0),
            (-2.0, f64::NEG_INFINITY, 0.0),
        ] {
            assert_eq!(scaled(x, log), want, "{x} {log}");
        }
    }
}
