//! The rule of `verify::tolerance`: right results of random configurations pass, wrong ones fail.

use libtest_mimic::Trial;
use subquad::catalog::random;
use subquad::catalog::spec::{Op, Role};
use subquad::operator::{Operator, Rows};
use subquad::ops::OPS;
use subquad::tensor::{DType, HostTensor, TensorMap};
use subquad::verify::tolerance::{Comparison, Reference};

use crate::dice::Dice;
use crate::{count, trial};

/// Configurations of each operator in a plain run.
const CONFIGURATIONS: usize = 20;

pub(crate) fn trials() -> Vec<Trial> {
    let one = |(at, op): (usize, &'static Op)| trial(&format!("bound::{}", op.name), move || rates(at, op));
    OPS.iter().enumerate().map(one).collect()
}

/// Counts for one operator.
#[derive(Debug, Default)]
struct Rates {
    right: usize,
    /// Right results that were refused.
    refused: Vec<String>,
    /// The definition overflows in f32, so that nothing can be said.
    overflows: usize,
    wrong: usize,
    /// Wrong results that were taken.
    taken: Vec<String>,
}

fn rates(stream: usize, op: &'static Op) {
    let mut dice = Dice::new(stream as u64);
    let mut rates = Rates::default();
    while rates.right < count(CONFIGURATIONS) {
        let case = dice.case(op);
        let Ok(operator) = case.configure(op) else { continue };
        if operator.cost().flops > 2e8 {
            continue;
        }
        let (name, inputs) = data(&mut dice, op, random::inputs(op, &case).unwrap());
        let Ok(outputs) = operator.cpu(&inputs) else { continue };
        let what = format!("{name}, {case:?}");
        let reference = Reference::of(&*operator, &inputs, Rows::All);
        let judge = |got: &TensorMap| reference.compare(&*operator, &inputs, Rows::All, got);
        let verdicts = judge(&outputs);
        if verdicts.iter().any(|(_, verdict)| !verdict.bound.is_finite()) {
            rates.overflows += 1;
            // Not counted among the right ones, but the search must end.
            if rates.overflows > 10 * count(CONFIGURATIONS) {
                break;
            }
            continue;
        }
        rates.right += 1;
        if let Some((tensor, verdict)) = verdicts.iter().find(|(_, verdict)| !verdict.ok) {
            rates.refused.push(format!("{tensor}: {verdict:?} in {what}"));
        }
        for _ in 0..4 {
            let (how, wrong) = mutant(&mut dice, op, &*operator, &inputs, &outputs);
            if !differs(&wrong, &outputs) {
                continue;
            }
            rates.wrong += 1;
            if judge(&wrong).iter().all(|(_, verdict): &(String, Comparison)| verdict.ok) {
                rates.taken.push(format!("{how} in {what}"));
            }
        }
    }
    let Rates { right, refused, overflows, wrong, taken } = rates;
    println!(
        "{}: {} of {right} right results refused, {} of {wrong} wrong ones taken, {overflows} without a bound",
        op.name,
        refused.len(),
        taken.len()
    );
    let shown = |list: &[String]| list.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(refused.is_empty(), "right results refused:\n{}", shown(&refused));
    assert!(taken.len() * 200 <= wrong, "wrong results taken:\n{}", shown(&taken));
}

/// Values of other sizes and kinds than a sample has.
fn data(dice: &mut Dice, op: &Op, inputs: TensorMap) -> (&'static str, TensorMap) {
    let kinds = ["as drawn", "as drawn", "a tenth", "3 times", "10 times", "each row the same", "every third row zero"];
    let kind = *dice.one(&kinds);
    let change = |name: &str, tensor: &HostTensor| {
        let spec = op.inputs.iter().find(|spec| spec.name == name);
        if spec.is_none_or(|spec| spec.role != Role::Sequence) || !tensor.dtype().is_float() {
            return tensor.clone();
        }
        let mut values = tensor.to_f32();
        let width = tensor.shape().dims().last().copied().unwrap_or(1).max(1);
        match kind {
            "a tenth" => values.iter_mut().for_each(|x| *x *= 0.1),
            "3 times" => values.iter_mut().for_each(|x| *x *= 3.0),
            "10 times" => values.iter_mut().for_each(|x| *x *= 10.0),
            "each row the same" => {
                let first = values[..width].to_vec();
                values.chunks_exact_mut(width).for_each(|row| row.copy_from_slice(&first));
            }
            "every third row zero" => values.chunks_exact_mut(width).step_by(3).for_each(|row| row.fill(0.0)),
            _ => {}
        }
        HostTensor::f32(tensor.shape().clone(), values).cast(tensor.dtype())
    };
    (kind, inputs.iter().map(|(name, tensor)| (name.to_owned(), change(name, tensor))).collect())
}

/// The outputs of a kernel with a mistake: in what it writes, or as if it had read something else.
fn mutant(
    dice: &mut Dice,
    op: &Op,
    operator: &dyn Operator,
    inputs: &TensorMap,
    outputs: &TensorMap,
) -> (String, TensorMap) {
    let (from, writes) = if dice.once_in(2) { (outputs, true) } else { (inputs, false) };
    let names: Vec<_> = from.iter().filter(|(_, tensor)| tensor.dtype().is_float()).map(|(name, _)| name).collect();
    let name = (*dice.one(&names)).to_owned();
    let tensor = from.get(&name).unwrap();
    let (dims, mut values) = (tensor.shape().dims(), tensor.to_f32());
    let width = dims.last().copied().unwrap_or(1).max(1);
    let rows = values.len() / width;
    let (a, b) = (dice.below(rows), dice.below(rows));
    let kind = *dice.one(&["a row of another", "a sign", "a tile transposed", "a row left out", "2 % too much"]);
    match kind {
        "a row of another" => values.copy_within(b * width..(b + 1) * width, a * width),
        "a sign" => values[a * width..][..width].iter_mut().for_each(|x| *x = -*x),
        "a row left out" => values[a * width..][..width].fill(0.0),
        "2 % too much" => values[a * width..][..width].iter_mut().for_each(|x| *x *= 1.02),
        _ => {
            let size = 4.min(width).min(rows);
            let first = dice.below(rows - size + 1);
            for i in 0..size {
                (0..i).for_each(|j| values.swap((first + i) * width + j, (first + j) * width + i));
            }
        }
    }
    let how = format!("{kind} of {name}");
    let mut changed = from.clone();
    changed.insert(name, HostTensor::f32(tensor.shape().clone(), values).cast(tensor.dtype()));
    if writes {
        return (how, changed);
    }
    let _ = op;
    let ran = operator.cpu(&changed).unwrap_or_else(|_| outputs.clone());
    (how, ran)
}

/// Whether a row of an output differs by more than a thousandth of its size, or of the size that rows have; a fiftieth in f16,
/// which has three digits.
fn differs(a: &TensorMap, b: &TensorMap) -> bool {
    a.iter().any(|(name, a)| {
        let (x, y) = (a.to_f64(), b.get(name).unwrap().to_f64());
        let width = a.shape().dims().last().copied().unwrap_or(1).max(1);
        let size = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let part = if a.dtype() == DType::F16 { 2e-2 } else { 1e-3 };
        let usual = size(&y) / ((y.len() / width) as f64).sqrt();
        x.chunks_exact(width).zip(y.chunks_exact(width)).any(|(x, y)| {
            let off: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
            size(&off) > part * size(y).max(usual)
        })
    })
}
