//! Rearranges the values of a tensor along one of its axes: `[outer, length, inner]`, where the axis is the middle one.

/// Keeps these positions of the axis, in their order.
pub(crate) fn select<T: Copy>(values: &[T], [length, inner]: [usize; 2], positions: &[usize]) -> Vec<T> {
    if positions.iter().copied().eq(0..length) {
        return values.to_vec();
    }
    let mut selected = Vec::with_capacity(values.len() / length.max(1) * positions.len());
    if inner == 1 && length > 0 {
        // Single elements are copied without a call for each.
        values.chunks_exact(length).for_each(|block| selected.extend(positions.iter().map(|at| block[*at])));
    } else if length * inner > 0 {
        for block in values.chunks_exact(length * inner) {
            positions.iter().for_each(|at| selected.extend_from_slice(&block[at * inner..][..inner]));
        }
    }
    selected
}

/// Puts pieces one after another along the axis. Each piece comes with its length, which is not 0.
pub(crate) fn join<T: Copy>(pieces: &[(usize, &[T])], inner: usize) -> Vec<T> {
    let mut joined = Vec::with_capacity(pieces.iter().map(|(_, values)| values.len()).sum());
    let outer = pieces.first().map_or(0, |(length, values)| values.len() / (length * inner));
    for block in 0..outer {
        for (length, values) in pieces {
            joined.extend_from_slice(&values[block * length * inner..][..length * inner]);
        }
    }
    joined
}

/// Exchanges two neighbouring axes, the last ones: matrices of `columns` columns are transposed.
pub(crate) fn exchange<T: Copy>(values: &[T], [rows, columns]: [usize; 2]) -> Vec<T> {
    let mut exchanged = Vec::with_capacity(values.len());
    for matrix in values.chunks_exact((rows * columns).max(1)) {
        for column in 0..columns {
            exchanged.extend((0..rows).map(|row| matrix[row * columns + column]));
        }
    }
    exchanged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_an_axis_join_to_the_whole() {
        let values: Vec<usize> = (0..24).collect();
        let [head, tail] = [[0, 1].as_slice(), &[2]].map(|at| (at.len(), select(&values, [3, 4], at)));
        assert_eq!(head.1, [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(join(&[(head.0, &head.1), (tail.0, &tail.1)], 4), values);
        assert_eq!(select(&values, [6, 1], &[5, 0]), [5, 0, 11, 6, 17, 12, 23, 18]);
    }

    #[test]
    fn axes_exchanged_twice_are_as_before() {
        let values: Vec<usize> = (0..12).collect();
        let turned = exchange(&values, [2, 3]);
        assert_eq!(turned, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(exchange(&turned, [3, 2]), values);
    }
}
