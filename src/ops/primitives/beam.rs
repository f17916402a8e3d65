//! The exact level-wise beam on the CPU: finds the K largest sums of one logit per digit, over f32 prefix sums.

use crate::cpu::simd::{exp_signed, wide};

/// Maximum number of addresses that are kept.
pub(crate) const MOST: usize = 64;

/// A sum and its address in one number. A larger sum gives a larger key; if sums are equal, the smaller address does.
type Key = u64;

/// Maps floats to integers in the order of their values: -0 equals 0, and NaN is below everything.
#[inline(always)]
fn order(x: f32) -> u32 {
    // Adding 0 turns -0 into 0. All bits of a negative number are flipped, but only the sign bit of others.
    let bits = (x + 0.0).to_bits();
    let turned = bits ^ ((bits as i32 >> 31) as u32 | 0x8000_0000);
    if x.is_nan() { 0 } else { turned }
}

#[inline(always)]
fn value(order: u32) -> f32 {
    f32::from_bits(order ^ (!(order as i32 >> 31) as u32 | 0x8000_0000))
}

fn key(sum: f32, address: usize) -> Key {
    u64::from(order(sum)) << 32 | u64::from(!(address as u32))
}

/// Buffers of [`Beam::top`], and its result.
pub(crate) struct Beam {
    choices: usize,
    topk: usize,
    /// Choices of a digit, the largest logit first.
    ranked: Vec<(f32, usize)>,
    kept: [Key; MOST],
    grown: [Key; MOST],
    len: usize,
}

impl Beam {
    /// Creates the buffers for `choices` choices per digit, to keep the best `topk` addresses, at most [`MOST`].
    pub(crate) fn new(choices: usize, topk: usize) -> Self {
        Self { choices, topk, ranked: Vec::with_capacity(choices), kept: [0; MOST], grown: [0; MOST], len: 0 }
    }

    /// The addresses of the largest sums of one logit per digit, the largest sum first, equal sums by address. Digit 0
    /// is added first and is the least significant.
    pub(crate) fn top(&mut self, logits: &[f32]) -> impl Iterator<Item = usize> {
        (self.kept[0], self.len) = (key(0.0, 0), 1);
        let mut stride = 1;
        for digit in logits.chunks_exact(self.choices) {
            self.grow(digit, stride);
            stride *= self.choices;
        }
        self.kept[..self.len].iter().map(|key| !(*key as u32) as usize)
    }

    /// The `at`-th largest sum that [`Beam::top`] found.
    pub(crate) fn sum(&self, at: usize) -> f32 {
        value((self.kept[at] >> 32) as u32)
    }

    fn grow(&mut self, digit: &[f32], stride: usize) {
        self.ranked.clear();
        self.ranked.extend(digit.iter().copied().enumerate().map(|(j, logit)| (logit, j * stride)));
        // Two properties of this order matter below: it is by value, and NaN, whose sums are NaN, comes last.
        self.ranked.sort_by_key(|(logit, _)| std::cmp::Reverse(order(*logit)));
        let mut len = 0;
        for &before in &self.kept[..self.len] {
            let (sum, address) = (value((before >> 32) as u32), !(before as u32) as usize);
            for (at, &(logit, offset)) in self.ranked.iter().enumerate() {
                let (total, address) = (sum + logit, address + offset);
                let new = key(total, address);
                if len == self.topk {
                    let least = self.grown[len - 1];
                    // If a sum is below the smallest kept sum, so are the later sums of its row. If it is the first of
                    // its row, so are all later rows, which start no higher. An equal sum does not end the row, because
                    // a later equal sum may have a smaller address.
                    if new >> 32 < least >> 32 && !total.is_nan() {
                        if at == 0 {
                            self.finish(len);
                            return;
                        }
                        break;
                    }
                    if new < least {
                        continue;
                    }
                    len -= 1;
                }
                let mut place = len;
                while place > 0 && self.grown[place - 1] < new {
                    self.grown[place] = self.grown[place - 1];
                    place -= 1;
                }
                self.grown[place] = new;
                len += 1;
            }
        }
        self.finish(len);
    }

    fn finish(&mut self, len: usize) {
        self.len = len;
        std::mem::swap(&mut self.kept, &mut self.grown);
    }
}

wide! {
    /// `softmax(z / tau)` of every digit.
    pub(crate) fn shares<FUSED>(logits: &mut [f32], choices: usize, tau: f32) {
        for digit in logits.chunks_exact_mut(choices) {
            let top = digit.iter().fold(f32::NEG_INFINITY, |top, x| top.max(*x));
            digit.iter_mut().for_each(|x| *x = (*x - top) / tau);
        }
        // All digits at once, because the few choices of one digit would not fill a vector.
        for x in logits.iter_mut() {
            *x = exp_signed::<FUSED>(*x);
        }
        for digit in logits.chunks_exact_mut(choices) {
            let sum: f32 = digit.iter().sum();
            digit.iter_mut().for_each(|x| *x /= sum);
        }
    }
}

/// The weight of an address: the product of the shares of its digits, or zero if it underflows.
pub(crate) fn weight(shares: &[f32], choices: usize, mut address: usize) -> f32 {
    let mut weight = 1.0;
    if choices.is_power_of_two() {
        let bits = choices.trailing_zeros();
        for digit in shares.chunks_exact(choices) {
            weight *= digit[address & (choices - 1)];
            address >>= bits;
        }
    } else {
        for digit in shares.chunks_exact(choices) {
            weight *= digit[address % choices];
            address /= choices;
        }
    }
    if weight < f32::MIN_POSITIVE { 0.0 } else { weight }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_values_and_comes_back() {
        let list = [f32::NAN, f32::NEG_INFINITY, -2.5, -1e-40, 0.0, 1e-40, 1.0, f32::INFINITY];
        assert!(list.windows(2).all(|w| order(w[0]) < order(w[1])));
        assert_eq!(order(-0.0), order(0.0));
        list[1..].iter().for_each(|x| assert_eq!(value(order(*x)), *x));
        assert!(value(order(f32::NAN)).is_nan());
        assert!(key(1.0, 5) > key(1.0, 6) && key(1.0, 6) > key(0.5, 0));
    }
}
