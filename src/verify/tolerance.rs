//! The tolerance: how large the error of an output may be. The same rule holds for all operators, with one table of
//! minimum tolerances.
//!
//! The error of an output is its relative RMS error against the definition in f64. The tolerance is twice the error of
//! the definition in f32 (rounded to the storage type of the output), with a minimum for each operator. Rows along the last
//! axis are judged one by one as well, with a factor of eight, so that one wrong row is found among many right ones. The fewer
//! rows carry the error of an output, the nearer its factor is to that of one row.
//!
//! A single run in f32 says little of a row on which rounding has much effect, for example one that is divided by a sum of
//! weights near zero: it may be right by luck. An output that exceeds its tolerance is therefore judged again with further runs
//! of the definition in f32, from inputs whose numbers are moved to their neighbours at random: the largest error counts. A row
//! whose own error is far above that of most rows is judged only by itself. If the definition overflows in f32, there is no
//! tolerance, and the comparison fails.

#[cfg(feature = "cpu")]
use std::sync::{Mutex, PoisonError};

use half::f16;

#[cfg(feature = "cpu")]
use crate::operator::{Operator, Precision, ReferenceOutputs, Rows};
#[cfg(feature = "cpu")]
use crate::tensor::TensorMap;
use crate::tensor::{DType, HostTensor};

/// Minimum tolerance by operator, with the reason for it.
const FLOORS: &[(&str, f64, &str)] = &[(
    "linear",
    1e-6,
    "exp in elu1 is allowed 3 + 2|x| units in the last place by Vulkan, of which the host's libm needs less than one",
)];

/// Minimum tolerance of the other operators. It allows for sums that are rounded in another order.
const DEFAULT_FLOOR: f64 = 5e-7;

/// Smaller differences do not count: f32 loses its digits below 1.2e-38, and GPUs may take such numbers for zero.
const TINY: f64 = 1e-37;

/// Runs of the definition from nudged inputs, at most.
#[cfg(feature = "cpu")]
const NUDGES: usize = 6;

/// Factor of the tolerance of an output with many rows.
const ALL: f64 = 2.0;

/// Factor of the tolerance of one row. The errors of one row scatter more than their mean over many rows. If all
/// eight errors of a row, that of the output and those of seven runs, were normal, the first would exceed eight times
/// the largest of the others four times in a million.
const ROW: f64 = 8.0;

/// A row whose own error is this many times the usual one is judged only by itself.
const ILL: f64 = 32.0;

/// The result of comparing an output with the definition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Relative RMS error against the definition in f64.
    pub error: f64,
    /// The tolerance.
    pub bound: f64,
    /// The row that is farthest over its own tolerance, if one is.
    pub row: Option<WrongRow>,
    /// The storage type in which the definition itself overflows, so that there is no tolerance.
    pub overflow: Option<DType>,
    /// Whether the error is finite and within a finite tolerance, that of every row too.
    pub ok: bool,
}

/// A row of an output, along its last axis, whose error exceeds its tolerance. Both are relative to the size of the row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WrongRow {
    /// Number of the row, counted through the tensor.
    pub at: usize,
    /// Number of rows of the tensor.
    pub of: usize,
    /// Relative error of the row.
    pub error: f64,
    /// Largest relative error that is allowed to the row.
    pub bound: f64,
}

impl Comparison {
    /// The comparison of an output that is missing.
    pub const MISSING: Self = Self { error: f64::INFINITY, bound: 0.0, row: None, overflow: None, ok: false };
}

/// Outputs of the definition for some inputs: in f64, and in f32 to measure its own rounding error.
#[cfg(feature = "cpu")]
#[derive(Debug)]
pub struct Reference {
    exact: ReferenceOutputs,
    /// Runs of the definition in f32: from the inputs, then from nudged inputs, as many as were needed.
    singles: Mutex<Vec<ReferenceOutputs>>,
}

#[cfg(feature = "cpu")]
impl Reference {
    /// Computes the definition in f64 and in f32, for the requested rows.
    pub fn of(operator: &dyn Operator, inputs: &TensorMap, rows: Rows<'_>) -> Self {
        let run = |precision| operator.reference(inputs, precision, rows);
        let (exact, single) = rayon::join(|| run(Precision::F64), || run(Precision::F32));
        Self::new(exact, single)
    }

    /// Makes the tolerance of a run of the definition in f64 and of one in f32.
    pub fn new(exact: ReferenceOutputs, single: ReferenceOutputs) -> Self {
        Self { exact, singles: Mutex::new(vec![single]) }
    }

    /// The definition in f64.
    pub fn exact(&self) -> &ReferenceOutputs {
        &self.exact
    }

    /// Compares every output and part of the state, by name. A missing one counts as wrong. The arguments are those of
    /// [`Reference::of`].
    pub fn compare(
        &self,
        operator: &dyn Operator,
        inputs: &TensorMap,
        rows: Rows<'_>,
        got: &TensorMap,
    ) -> Vec<(String, Comparison)> {
        self.compare_with(operator.name(), got, &|inputs| operator.reference(inputs, Precision::F32, rows), inputs)
    }

    /// Does the same with a function that computes the definition in f32 from inputs.
    pub fn compare_with(
        &self,
        op: &str,
        got: &TensorMap,
        single: &dyn Fn(&TensorMap) -> ReferenceOutputs,
        inputs: &TensorMap,
    ) -> Vec<(String, Comparison)> {
        let mut singles = self.singles.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let verdicts = self.judge(op, got, &singles);
            let nudges = singles.len() - 1;
            // A definition that overflows in f32 stays without a tolerance.
            let hopeless = |verdict: &Comparison| !(verdict.error.is_finite() && verdict.bound.is_finite());
            if nudges == NUDGES || verdicts.iter().all(|(_, verdict)| verdict.ok || hopeless(verdict)) {
                return verdicts;
            }
            singles.push(single(&nudged(inputs, nudges as u64)));
        }
    }

    fn judge(&self, op: &str, got: &TensorMap, singles: &[ReferenceOutputs]) -> Vec<(String, Comparison)> {
        let one = |(at, (name, exact)): (usize, &(&'static str, Vec<f64>))| {
            let singles: Vec<&[f64]> = singles.iter().map(|outputs| &outputs[at].1[..]).collect();
            let verdict = got.get(name).map_or(Comparison::MISSING, |tensor| compare(op, tensor, exact, &singles));
            ((*name).to_owned(), verdict)
        };
        self.exact.iter().enumerate().map(one).collect()
    }
}

/// Inputs with every number moved to a neighbour, up or down at random, or left as it is. Whole numbers stay.
#[cfg(feature = "cpu")]
fn nudged(inputs: &TensorMap, draw: u64) -> TensorMap {
    let mut random = (draw + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut nudge = |value: f32| {
        // Steele, Lea and Flood's SplitMix64.
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        match (bits ^ (bits >> 31)) % 3 {
            // Zeros stay: many stand for "nothing".
            _ if value == 0.0 || !value.is_finite() => value,
            0 => value.next_up(),
            1 => value.next_down(),
            _ => value,
        }
    };
    let one = |(name, tensor): (&str, &HostTensor)| {
        let tensor = match tensor.dtype() {
            DType::F32 | DType::F16 => {
                HostTensor::f32(tensor.shape().clone(), tensor.to_f32().into_iter().map(&mut nudge).collect())
            }
            DType::I64 | DType::I32 | DType::U32 | DType::U8 => tensor.clone(),
        };
        (name.to_owned(), tensor)
    };
    inputs.iter().map(one).collect()
}

/// What is known of a row of an output: its size, its error, and the largest error of the definition in f32.
#[derive(Debug, Clone, Copy)]
struct Row {
    size: f64,
    error: f64,
    own: f64,
}

/// The middle one of some numbers; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    if values.is_empty() { 0.0 } else { *values.select_nth_unstable_by(middle, f64::total_cmp).1 }
}

/// Compares one output by the rule of this module. `exact` is the definition in f64, `singles` are runs of it in f32.
pub fn compare(op: &str, got: &HostTensor, exact: &[f64], singles: &[&[f64]]) -> Comparison {
    let values = got.to_f64();
    if !got.dtype().is_float() || values.len() != exact.len() {
        // Positions and indices are whole numbers and must match exactly.
        let ok = values == exact;
        return Comparison { error: if ok { 0.0 } else { f64::INFINITY }, bound: 0.0, row: None, overflow: None, ok };
    }
    let floor = FLOORS.iter().find(|f| f.0 == op).map_or(DEFAULT_FLOOR, |f| f.1);
    let half = got.dtype() == DType::F16;
    let singles: Vec<Vec<f64>> = singles
        .iter()
        .map(|single| single.iter().map(|&x| if half { f16::from_f64(x).to_f64() } else { x }).collect())
        .collect();
    let width = got.shape().dims().last().copied().unwrap_or(1).max(1);
    let part = |values: &[f64], row: usize| distance(&values[row * width..][..width], &exact[row * width..][..width]);
    let count = exact.len() / width;
    let rows: Vec<Row> = (0..count)
        .map(|row| Row {
            size: exact[row * width..][..width].iter().filter(|x| x.is_finite()).map(|x| x * x).sum::<f64>().sqrt(),
            error: part(&values, row),
            own: singles.iter().map(|single| part(single, row)).fold(0.0, f64::max),
        })
        .collect();
    if rows.iter().any(|row| row.own.is_infinite()) {
        let error = relative_rms(&values, exact);
        return Comparison { error, bound: f64::INFINITY, row: None, overflow: Some(got.dtype()), ok: false };
    }
    // A row may be small because its terms cancel: its error is judged beside rows of the usual size too.
    let usual = median(rows.iter().map(|row| row.size).collect());
    let whole = rows.iter().map(|row| row.size * row.size).sum::<f64>().sqrt();
    let least = if usual > 0.0 { usual } else { whole / (count.max(1) as f64).sqrt() };
    let size = |row: &Row| if least > 0.0 { row.size.max(least) } else { 1.0 };
    let level = median(rows.iter().map(|row| row.own / size(row)).collect()).max(floor);
    let bound = |row: &Row| ROW * row.own.max(level * size(row));
    // Rows on which rounding has far more effect than on most say nothing of the others.
    let ill: Vec<bool> = rows.iter().map(|row| row.own > ILL * level * size(row)).collect();
    let root = |all: bool, of: &dyn Fn(usize, &Row) -> f64| {
        let chosen = rows.iter().enumerate().filter(|(at, _)| all || !ill[*at]);
        chosen.map(|(at, row)| of(at, row).powi(2)).sum::<f64>().sqrt()
    };
    let over = |sum: f64, size: f64| if size == 0.0 { sum } else { sum / size };
    let well = root(false, &|_, row| row.size);
    let own = singles.iter().map(|single| over(root(false, &|at, _| part(single, at)), well)).fold(0.0, f64::max);
    // As many rows as carry the error: one that outweighs all others scatters as one row does.
    let carriers = (root(false, &|_, row| row.own) / root(false, &|_, row| row.own * row.own).sqrt()).powi(4);
    let factor = if carriers > 1.0 { ALL + (ROW - ALL) / carriers.sqrt() } else { ROW };
    let (well_error, well_bound) = (over(root(false, &|_, row| row.error), well), (factor * own).max(floor));
    let ill_bounds = root(true, &|at, row| if ill[at] { bound(row) } else { 0.0 });
    let (error, all_bound) = (
        over(root(true, &|_, row| row.error), whole),
        if ill_bounds == 0.0 { well_bound } else { over((well_bound * well).hypot(ill_bounds), whole) },
    );
    let wrong = rows.iter().enumerate().filter(|(_, row)| row.error > bound(row) || row.error.is_nan());
    let worst = wrong.max_by(|(_, a), (_, b)| (a.error / bound(a)).total_cmp(&(b.error / bound(b))));
    let row = worst.map(|(at, row)| WrongRow {
        at,
        of: count,
        error: over(row.error, row.size),
        bound: over(bound(row), row.size),
    });
    let ok = error.is_finite() && well_error <= well_bound && row.is_none();
    let (error, bound) = if well_error <= well_bound { (error, all_bound) } else { (well_error, well_bound) };
    Comparison { error, bound, row, overflow: None, ok }
}

/// The root of the sum of squared differences. Infinite if one value of a pair is finite and the other is not.
fn distance(got: &[f64], want: &[f64]) -> f64 {
    let mut sum = 0.0f64;
    for (&g, &w) in got.iter().zip(want) {
        match (g.is_finite(), w.is_finite()) {
            (true, true) if (g - w).abs() >= TINY => sum += (g - w) * (g - w),
            (true, true) | (false, false) => {}
            _ => return f64::INFINITY,
        }
    }
    sum.sqrt()
}

/// The square root of the sum of squares of `got - want`, divided by that of `want`. If `want` is all zero, it is not
/// divided. The result is infinite if the lengths differ, or if one value of a pair is finite and the other is not.
pub fn relative_rms(got: &[f64], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    let pairs = || got.iter().zip(want).filter(|(got, want)| got.is_finite() && want.is_finite());
    let (wrong, size) = (distance(got, want), pairs().map(|(_, want)| want * want).sum::<f64>().sqrt());
    if size == 0.0 { wrong } else { wrong / size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_rms_of_known_values() {
        assert_eq!(relative_rms(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((relative_rms(&[3.0, 5.0], &[3.0, 4.0]) - 0.2).abs() < 1e-15);
        assert_eq!(relative_rms(&[2.0], &[0.0]), 2.0);
        assert_eq!(relative_rms(&[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(relative_rms(&[1.0], &[1.0, 2.0]), f64::INFINITY);
    }

    #[test]
    fn an_error_above_twice_the_definitions_own_fails() {
        let verdict = |rows: usize, off: f32| {
            let (exact, single) = (vec![1.0; 2 * rows], [1.0, 1.0 + 1e-5].repeat(rows));
            compare("linear", &HostTensor::f32([rows, 2], [1.0, 1.0 + off].repeat(rows)), &exact, &[&single])
        };
        let [close, far] = [1.8e-5, 2.3e-5].map(|off| verdict(10_000, off));
        assert!(close.ok && !far.ok, "{close:?} {far:?}");
        // A single row scatters more.
        let [close, far] = [7e-5, 9e-5].map(|off| verdict(1, off));
        assert!(close.ok && !far.ok, "{close:?} {far:?}");
    }

    #[test]
    fn one_wrong_row_among_many_is_found() {
        let exact: Vec<f64> = (0..4000).map(|i| f64::from(i % 7) + 1.0).collect();
        let single: Vec<f64> = exact.iter().map(|x| x * (1.0 + 1e-6)).collect();
        let mut got: Vec<f32> = exact.iter().map(|x| (x * (1.0 - 1.5e-6)) as f32).collect();
        let verdict = |got: &[f32]| compare("softmax", &HostTensor::f32([1000, 4], got.to_vec()), &exact, &[&single]);
        assert!(verdict(&got).ok, "{:?}", verdict(&got));
        got[2001] *= 1.0 + 3e-5;
        let found = verdict(&got);
        assert!(found.error < found.bound, "the whole hides it: {found:?}");
        assert!(!found.ok && found.row.is_some_and(|row| row.at == 500 && row.of == 1000), "{found:?}");
    }

    #[test]
    fn a_row_on_which_rounding_has_much_effect_is_judged_by_itself() {
        let exact = vec![1.0; 400];
        let (mut single, mut got) = (vec![1.0 + 1e-7; 400], vec![1.0f32; 400]);
        single[8] = 1.01;
        got[9] = 1.03;
        let verdict = |got: &[f32]| compare("softmax", &HostTensor::f32([100, 4], got.to_vec()), &exact, &[&single]);
        assert!(verdict(&got).ok, "{:?}", verdict(&got));
        // What is allowed to that row is not allowed to another, nor to all.
        got[40] = 1.001;
        assert!(!verdict(&got).ok);
        got[40] = 1.0;
        got.iter_mut().skip(12).for_each(|x| *x = 1.0 + 3e-6);
        assert!(!verdict(&got).ok, "{:?}", verdict(&got));
    }

    #[test]
    fn a_definition_that_overflows_gives_no_tolerance() {
        let verdict = compare("softmax", &HostTensor::f32([2], vec![1.0, 2.0]), &[1.0, 2.0], &[&[1.0, f64::NAN]]);
        assert!(!verdict.ok && verdict.bound.is_infinite(), "{verdict:?}");
        // Where the definition is not finite in f64 either, the output must not be.
        let nan = f64::NAN;
        assert!(compare("softmax", &HostTensor::f32([2], vec![1.0, f32::NAN]), &[1.0, nan], &[&[1.0, nan]]).ok);
        assert!(!compare("softmax", &HostTensor::f32([2], vec![1.0, 5.0]), &[1.0, nan], &[&[1.0, nan]]).ok);
    }
}
