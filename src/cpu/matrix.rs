//! Matrix products over slices.

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

/// `c = a b` or `c += a b`, where a is `[m, k]`, b is `[k, n]`, and c has rows of n contiguous elements, `c_row` apart.
pub(crate) fn product([m, k, n]: [usize; 3], a: Mat<'_>, b: Mat<'_>, onto: Onto, c: &mut [f32], c_row: usize) {
    assert!(a.holds(m, k) && b.holds(k, n) && Mat::rows(c, c_row).holds(m, n), "a product past the end of a matrix");
    assert!(c_row >= n, "rows of a product that overlap");
    let beta = if onto == Onto::Sum { 1.0 } else { 0.0 };
    let stride = |s: usize| s as isize;
    // SAFETY: the two asserts keep all elements inside the slices and the elements of c distinct. c is borrowed
    // mutably, so nothing else accesses it.
    unsafe {
        matrixmultiply::sgemm(
            m,
            k,
            n,
            1.0,
            a.data.as_ptr(),
            stride(a.row),
            stride(a.col),
            b.data.as_ptr(),
            stride(b.row),
            stride(b.col),
            beta,
            c.as_mut_ptr(),
            stride(c_row),
            1,
        );
    }
}
