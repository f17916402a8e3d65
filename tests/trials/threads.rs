//! The cpu backend gives the same bits on any number of threads: the cases of every operator and random configurations, if
//! they are long enough to be shared among threads.

use libtest_mimic::Trial;
use rayon::{ThreadPool, ThreadPoolBuilder};
use subquad::catalog::case::Case;
use subquad::catalog::random;
use subquad::catalog::spec::Op;
use subquad::ops::OPS;
use subquad::tensor::TensorMap;

use crate::dice::Dice;
use crate::{count, trial};

/// Random configurations of each operator in a plain run.
const CONFIGURATIONS: usize = 4;

/// Sizes of pools. Most are no divisor of the numbers of heads, segments and tiles.
const THREADS: [usize; 5] = [1, 2, 3, 5, 8];

/// Operations of what is compared. With fewer a single thread does all; more take long.
const FLOPS: std::ops::Range<f64> = 1e6..1e8;

pub(crate) fn trials() -> Vec<Trial> {
    OPS.iter().map(|op| trial(&format!("threads::{}", op.name), move || same_bits(op))).collect()
}

fn same_bits(op: &'static Op) {
    let pools = THREADS.map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let (mut named, mut random) = (0, 0);
    for case in (op.cases)().iter().filter(|case| case.quick) {
        named += usize::from(compare(op, case, &pools));
    }
    for number in 0..100 * count(CONFIGURATIONS) {
        if random == count(CONFIGURATIONS) {
            break;
        }
        let mut dice = Dice::of(&format!("threads {}", op.name), number);
        let mut case = dice.case(op);
        for (letter, length) in &mut case.axes {
            if *letter == "N" {
                *length *= 1 + dice.below(200);
            }
        }
        random += usize::from(compare(op, &case, &pools));
    }
    println!("threads::{}: {named} cases and {random} random configurations, {THREADS:?} threads each", op.name);
    assert!(random > 0);
}

/// Whether the case runs, on all pools alike.
fn compare(op: &'static Op, case: &Case, pools: &[ThreadPool]) -> bool {
    let Ok(operator) = case.configure(op) else { return false };
    if !FLOPS.contains(&operator.cost().flops) {
        return false;
    }
    let inputs = random::inputs(op, case).unwrap();
    let mut first: Option<TensorMap> = None;
    for pool in pools {
        let Ok(outputs) = pool.install(|| operator.cpu(&inputs)) else { return false };
        let first = first.get_or_insert_with(|| outputs.clone());
        assert_eq!(first.names(), outputs.names());
        for ((name, a), (_, b)) in first.iter().zip(outputs.iter()) {
            let threads = pool.current_num_threads();
            assert!(a.bytes() == b.bytes(), "{} {case:?}: {name} differs on {threads} threads", op.name);
        }
    }
    true
}
