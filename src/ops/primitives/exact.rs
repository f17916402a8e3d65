//! Exact comparison of squared distances: whatever is rounded, the nearer of two codes is the same.

use std::cmp::Ordering;

/// A sum of f64 numbers without rounding: numbers of ascending size that do not overlap (Shewchuk, "Adaptive precision
/// floating-point arithmetic", 1997, theorem 10).
#[derive(Default)]
struct Sum(Vec<f64>);

impl Sum {
    fn add(&mut self, mut x: f64) {
        let mut kept = 0;
        for at in 0..self.0.len() {
            let y = self.0[at];
            let sum = x + y;
            let from_y = sum - x;
            let rest = (x - (sum - from_y)) + (y - from_y);
            if rest != 0.0 {
                self.0[kept] = rest;
                kept += 1;
            }
            x = sum;
        }
        self.0.truncate(kept);
        if x != 0.0 {
            self.0.push(x);
        }
    }

    /// How the sum compares with 0: the largest of its numbers exceeds all others together.
    fn sign(&self) -> Ordering {
        self.0.last().map_or(Ordering::Equal, |top| top.total_cmp(&0.0))
    }
}

/// Compares the squared distances of `x` to `a` and to `b`, all finite: less if `a` is nearer.
pub(super) fn compare(x: &[f32], a: &[f32], b: &[f32]) -> Ordering {
    // |x - a|^2 - |x - b|^2 without |x|^2. The product of two f32 numbers is exact in f64.
    let mut sum = Sum::default();
    for ((&x, &a), &b) in x.iter().zip(a).zip(b).filter(|((_, a), b)| a != b) {
        let [x, a, b] = [x, a, b].map(f64::from);
        [a * a, -(b * b), -2.0 * x * a, 2.0 * x * b].into_iter().for_each(|term| sum.add(term));
    }
    sum.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose squares i128 holds, at the scale of the smallest f32 and at a large one.
    #[test]
    fn the_order_is_that_of_whole_numbers() {
        let mut random = 7u64;
        let mut next = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((random >> 33) % most) as i64 - most as i64 / 2
        };
        let mut equal = 0;
        for round in 0..3000 {
            let most = if round % 3 == 0 { 6 } else { 1 << 24 };
            let mut row = || -> Vec<i64> { (0..5).map(|_| next(most)).collect() };
            let (x, a) = (row(), row());
            // The same differences in another order: a tie, which one unit more or less breaks.
            let mut b: Vec<i64> = (0..5).map(|i| x[i] + a[(i + 1) % 5] - x[(i + 1) % 5]).collect();
            b[0] += if round % 2 == 0 { 0 } else { 1 };
            if b.iter().any(|b| b.abs() > 1 << 24) {
                continue;
            }
            let far = |c: &[i64]| x.iter().zip(c).map(|(x, c)| i128::from(x - c).pow(2)).sum::<i128>();
            let want = far(&a).cmp(&far(&b));
            equal += usize::from(want.is_eq());
            for scale in [f32::from_bits(1), 1.0, 2f32.powi(100)] {
                let [x, a, b] = [&x, &a, &b].map(|row| row.iter().map(|&n| n as f32 * scale).collect::<Vec<_>>());
                assert_eq!(compare(&x, &a, &b), want, "{x:?} {a:?} {b:?}");
            }
        }
        assert!(equal > 500, "{equal} ties");
    }
}
