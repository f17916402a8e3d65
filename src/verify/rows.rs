//! Selects rows of outputs along the sequence: all of them, or a sample if computing the definition of every row would
//! take too long.

use crate::catalog::spec::TensorSpec;
use crate::tensor::{HostTensor, Layout, TensorMap};

/// Selects `count` positions of `len`: the first, the last, and one from each of `count - 2` equal parts between them.
/// Returns all positions if `len` is at most `count`.
pub fn sample(len: usize, count: usize) -> Vec<usize> {
    if len <= count {
        return (0..len).collect();
    }
    let parts = count.saturating_sub(2);
    // Multiples of the golden ratio modulo 1 choose the place within each part. They spread the positions evenly, and
    // do not fall on multiples of a tile size.
    let within = |part: usize| (part as f64 * 0.618_033_988_749_895).fract();
    let between = (0..parts).map(|part| {
        let start = |part: usize| 1 + part * (len - 2) / parts;
        start(part) + (within(part) * (start(part + 1) - start(part)) as f64) as usize
    });
    let mut positions: Vec<_> = [0].into_iter().chain(between).chain([len - 1]).collect();
    positions.dedup();
    positions
}

/// Keeps only these rows of the outputs along the sequence. All other tensors stay unchanged.
pub fn pick(outputs: &[TensorSpec], layout: Layout, tensors: &TensorMap, positions: &[usize]) -> TensorMap {
    let one = |(name, tensor): (&str, &HostTensor)| {
        let spec = outputs.iter().find(|spec| spec.name == name);
        let axis = spec.and_then(|spec| spec.letters(layout).iter().position(|letter| *letter == "N"));
        (name.to_owned(), axis.map_or_else(|| tensor.clone(), |axis| tensor.select(axis, positions)))
    };
    tensors.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_both_ends_and_is_spread_over_the_length() {
        assert_eq!(sample(5, 8), [0, 1, 2, 3, 4]);
        assert_eq!(sample(1, 1), [0]);
        for (len, count) in [(9, 8), (64, 16), (65, 64), (1000, 64), (65536, 16), (1 << 30, 100)] {
            let positions = sample(len, count);
            assert_eq!(positions.len(), count, "{len} {count}: {positions:?}");
            assert_eq!((positions[0], positions[count - 1]), (0, len - 1));
            assert!(positions.windows(2).all(|w| w[0] < w[1]), "{len} {count}: {positions:?}");
            let widest = positions.windows(2).map(|w| w[1] - w[0]).max().unwrap();
            assert!(widest <= 2 * len.div_ceil(count - 2) + 1, "{len} {count}: a gap of {widest}");
        }
    }

    #[test]
    fn rows_are_picked_along_the_length_whatever_the_layout() {
        let o = TensorSpec::sequence("o", "B H N E");
        let tensor = HostTensor::f32([1, 2, 3, 2], (0..12).map(|x| x as f32).collect());
        let tensors: TensorMap = [("o".to_owned(), tensor.clone()), ("state".to_owned(), tensor)].into_iter().collect();
        let picked = pick(&[o], Layout::Bhnd, &tensors, &[0, 2]);
        assert_eq!(picked.get("o").unwrap().to_f32(), [0.0, 1.0, 4.0, 5.0, 6.0, 7.0, 10.0, 11.0]);
        assert_eq!(picked.get("state").unwrap().shape().count(), 12);
        let picked = pick(&[o], Layout::Bnhd, &tensors, &[1]);
        assert_eq!(picked.get("o").unwrap().to_f32(), [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
    }
}
