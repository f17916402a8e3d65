//! Definitions of the building blocks as plain loops.

use crate::verify::float::{self, Float};

/// The addresses of the K largest sums of one logit per digit, with the sums: the largest sum first, equal sums by
/// address. It is a beam over f32 prefix sums; digit 0 is added first and is the least significant. NaN is below
/// everything.
pub(crate) fn top(logits: &[f32], choices: usize, topk: usize) -> Vec<(usize, f32)> {
    let mut beam = vec![(0usize, 0.0f32)];
    let mut stride = 1;
    for digit in logits.chunks_exact(choices) {
        let grown = |&(address, sum): &(usize, f32)| {
            digit.iter().enumerate().map(move |(j, logit)| (address + j * stride, sum + logit)).collect::<Vec<_>>()
        };
        beam = beam.iter().flat_map(grown).collect();
        // Adding 0 turns -0 into 0.
        let order = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x + 0.0 };
        beam.sort_by(|a, b| {
            order(b.1).total_cmp(&order(a.1)).then(a.1.is_nan().cmp(&b.1.is_nan())).then(a.0.cmp(&b.0))
        });
        beam.truncate(topk);
        stride *= choices;
    }
    beam
}

/// For each address, the product of the softmaxes of its digits, or zero if it underflows f32.
pub(crate) fn products<T: Float>(logits: &[T], choices: usize, tau: f32, addresses: &[(usize, f32)]) -> Vec<T> {
    let tau = T::of(f64::from(tau));
    let shares = |digit: &[T]| float::softmax(digit.iter().map(|&z| z / tau).collect());
    let digits: Vec<Vec<T>> = logits.chunks_exact(choices).map(shares).collect();
    let weight = |&(mut address, _): &(usize, f32)| {
        let mut weight = T::of(1.0);
        for shares in &digits {
            weight = weight * shares[address % choices];
            address /= choices;
        }
        if weight.wide() < f64::from(f32::MIN_POSITIVE) { T::of(0.0) } else { weight }
    };
    addresses.iter().map(weight).collect()
}
