//! Matrix products over slices. Operands are read where they are if a kernel can; one whose rows are not contiguous is packed.

use std::cell::Cell;

use super::gemm::{Kernel, LARGEST, Operands, Rows};

/// A matrix inside a slice: element (i, j) is at `i * row + j * col`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    row: usize,
    col: usize,
}

impl<'a> Mat<'a> {
    /// A matrix of rows with contiguous elements. The rows start `row` elements apart.
    pub(crate) fn rows(data: &'a [f32], row: usize) -> Self {
        Self { data, row, col: 1 }
    }

    /// The transposed matrix.
    pub(crate) fn t(self) -> Self {
        Self { row: self.col, col: self.row, ..self }
    }

    /// The matrix without its first `cols` columns.
    pub(crate) fn skip_cols(self, cols: usize) -> Self {
        Self { data: &self.data[cols * self.col..], ..self }
    }

    /// The first `len` elements of row `i`. The matrix must not be transposed.
    pub(crate) fn row(self, i: usize, len: usize) -> &'a [f32] {
        debug_assert_eq!(self.col, 1);
        &self.data[i * self.row..][..len]
    }

    fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.row + (cols - 1) * self.col < self.data.len()
    }
}

/// Whether a product overwrites its target or adds to it.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Onto {
    /// Overwrites it.
    Nothing,
    /// Adds to it.
    Sum,
}

/// A part of a product that is computed, or of its left operand that is read.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// The whole of both.
    All,
    /// The elements of c on and below its diagonal, and some above.
    Lower,
    /// The elements of a on and below its diagonal, and some of the zeros above.
    OfLower,
}

/// `c = a b` or `c += a b`, where a is `[m, k]`, b is `[k, n]`, and c has rows of n contiguous elements, `c_row` apart.
pub(crate) fn product(sizes: [usize; 3], a: Mat<'_>, b: Mat<'_>, onto: Onto, c: &mut [f32], c_row: usize) {
    multiply(sizes, a, b, onto, c, c_row, Part::All);
}

/// Writes the elements of a product on and below its diagonal. The elements above become anything.
pub(crate) fn product_to_diagonal(sizes: [usize; 3], a: Mat<'_>, b: Mat<'_>, c: &mut [f32], c_row: usize) {
    multiply(sizes, a, b, Onto::Nothing, c, c_row, Part::Lower);
}

/// Writes or adds the product of a matrix that is zero above its diagonal with another one.
pub(crate) fn product_of_lower(sizes: [usize; 3], a: Mat<'_>, b: Mat<'_>, onto: Onto, c: &mut [f32], c_row: usize) {
    multiply(sizes, a, b, onto, c, c_row, Part::OfLower);
}

/// Products in a sum between a load and a store of it: a panel of so many rows stays in the first cache.
const DEPTH: usize = 256;

/// Floats of the first cache that a panel may lie spread over.
const NEAR: usize = 6144;

/// Bytes of a cache line, as floats.
const LINE: usize = 16;

thread_local! {
    /// Room for a panel of the right matrix.
    static PANEL: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

fn multiply([m, k, n]: [usize; 3], a: Mat<'_>, b: Mat<'_>, onto: Onto, c: &mut [f32], c_row: usize, part: Part) {
    assert!(a.holds(m, k) && b.holds(k, n) && Mat::rows(c, c_row).holds(m, n), "a product past the end of a matrix");
    assert!(c_row >= n, "rows of a product that overlap");
    if k == 0 && onto == Onto::Nothing {
        c.chunks_mut(c_row).take(m).for_each(|row| row[..n].fill(0.0));
    }
    let kernel = Kernel::new();
    let mut memory = PANEL.take();
    assert!(kernel.rows <= LARGEST[0] && kernel.columns <= LARGEST[1], "a kernel larger than the largest");
    memory.resize(DEPTH * LARGEST[1] + LINE, 0.0);
    let aligned = memory.as_ptr().align_offset(4 * LINE).min(LINE);
    let panel = &mut memory[aligned..][..DEPTH * LARGEST[1]];
    let mut edge = [0.0; LARGEST[0] * LARGEST[1]];
    for start in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - start);
        let sum = start > 0 || onto == Onto::Sum;
        for column in (0..n).step_by(kernel.columns) {
            let count = kernel.columns.min(n - column);
            let from = &b.data[start * b.row + column * b.col..];
            // Rows that lie far apart push each other out of the first cache: they are copied if they are read often enough.
            let far = b.row * depth > NEAR && m > 2 * kernel.rows;
            let packed = b.col != 1 || count < kernel.columns || far;
            if packed {
                let rows = Rows { data: from, count, row: b.col, column: b.row };
                kernel.pack_right(rows, depth, &mut panel[..kernel.columns * depth]);
            }
            let mut row = 0;
            while row < m {
                let (height, tile) = kernel.tile(m - row);
                let end = row + height;
                let depth = if part == Part::OfLower { depth.min(end.saturating_sub(start)) } else { depth };
                if depth > 0 && (part != Part::Lower || end > column) {
                    let of = Operands {
                        left: a.data[row * a.row + start * a.col..].as_ptr(),
                        left_row: a.row,
                        left_column: a.col,
                        right: if packed { panel.as_ptr() } else { from.as_ptr() },
                        right_row: if packed { kernel.columns } else { b.row },
                        depth,
                    };
                    let to = &mut c[row * c_row + column..];
                    // SAFETY: the asserts at the start keep the rows and columns of a and b, and those of c that are written
                    // here, inside the slices; a panel has `depth` rows; `edge` has room for every tile.
                    unsafe {
                        if count == kernel.columns {
                            tile(of, to.as_mut_ptr(), c_row, sum);
                        } else {
                            for (edge, to) in edge.chunks_exact_mut(kernel.columns).zip(to.chunks(c_row)).take(height) {
                                edge[..count].copy_from_slice(&to[..count]);
                            }
                            tile(of, edge.as_mut_ptr(), kernel.columns, sum);
                            for (edge, to) in edge.chunks_exact(kernel.columns).zip(to.chunks_mut(c_row)).take(height) {
                                to[..count].copy_from_slice(&edge[..count]);
                            }
                        }
                    }
                }
                row = end;
            }
        }
    }
    PANEL.set(memory);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, of which every order of addition gives the same sums.
    fn numbers(count: usize, shift: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + shift) % 41) as f32 - 20.0).collect()
    }

    #[test]
    fn products_of_all_shapes_and_strides_are_right() {
        for [m, k, n] in [[1, 1, 1], [1, 0, 3], [5, 7, 33], [32, 64, 64], [13, 300, 40], [64, 64, 17], [31, 31, 64]] {
            for (a_turned, b_turned, gap) in [(false, false, 0), (true, false, 3), (false, true, 0), (true, true, 5)] {
                let (a, b) = (numbers((m + gap) * (k + gap), 3), numbers((k + gap) * (n + gap), 11));
                let left = if a_turned { Mat::rows(&a, m + gap).t() } else { Mat::rows(&a, k + gap) };
                let right = if b_turned { Mat::rows(&b, k + gap).t() } else { Mat::rows(&b, n + gap) };
                let want = |i, j| (0..k).map(|l| at(left, i, l) * at(right, l, j)).sum::<f32>();
                for onto in [Onto::Nothing, Onto::Sum] {
                    let before = if onto == Onto::Sum { 2.0 } else { 0.0 };
                    let mut c = vec![2.0; m * (n + gap)];
                    product([m, k, n], left, right, onto, &mut c, n + gap);
                    for (place, found) in c.iter().enumerate() {
                        let (i, j) = (place / (n + gap), place % (n + gap));
                        let want = if j < n { before + want(i, j) } else { 2.0 };
                        assert_eq!(*found, want, "[{m}, {k}, {n}] {a_turned} {b_turned} {gap}: {i} {j}");
                    }
                }
                let mut c = vec![2.0; m * n];
                product_to_diagonal([m, k, n], left, right, &mut c, n);
                for place in (0..m * n).filter(|place| place % n <= place / n) {
                    let (i, j) = (place / n, place % n);
                    assert_eq!(c[place], want(i, j), "[{m}, {k}, {n}]: to the diagonal, {i} {j}");
                }
                let lower: Vec<f32> = (0..m * k).map(|at| if at % k <= at / k { a[at] } else { 0.0 }).collect();
                let mut c = vec![2.0; m * n];
                product_of_lower([m, k, n], Mat::rows(&lower, k), right, Onto::Sum, &mut c, n);
                for (place, found) in c.iter().enumerate() {
                    let (i, j) = (place / n, place % n);
                    let sum: f32 = (0..k).map(|l| lower[i * k + l] * at(right, l, j)).sum();
                    assert_eq!(*found, 2.0 + sum, "[{m}, {k}, {n}]: of a lower matrix, {i} {j}");
                }
            }
        }
    }

    fn at(x: Mat<'_>, i: usize, j: usize) -> f32 {
        x.data[i * x.row + j * x.col]
    }
}
