//! Products of large matrices: panels of both, packed in the order in which a kernel reads them, multiplied by tiles in registers.
//!
//! A kernel multiplies a panel of a few rows of the left matrix by a panel of a few rows of the right one, which is transposed:
//! `c += a b^T`. Which kernel a machine has does not change which sums are added in which order, but only some of them fuse
//! multiplications with additions.

/// Columns of both matrices that are multiplied at once: panels of them stay in a cache.
pub(crate) const DEPTH: usize = 512;

/// A kernel with the sizes of its tile.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of a panel of the left matrix, and of the right one.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pack: [Pack; 2],
    multiply: Multiply,
}

/// Packs rows of a matrix into panels: see [`pack`].
type Pack = fn(Rows<'_>, usize, &mut [f32]);

/// Adds the products of two panels of equal depth to a tile whose rows are `stride` apart.
type Multiply = fn(&[f32], &[f32], &mut [f32], usize);

/// Rows of a matrix from some place on: element (i, k) is at `i * row + k * column`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    /// Number of rows. Those that a panel has beyond them are zeros.
    pub(crate) count: usize,
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl Kernel {
    /// The fastest kernel of this machine.
    pub(crate) fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self { rows: 12, columns: 32, pack: [pack::<12>, pack::<32>], multiply: avx512 };
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return Self { rows: 6, columns: 16, pack: [pack::<6>, pack::<16>], multiply: avx2 };
            }
        }
        if cfg!(target_arch = "aarch64") {
            return Self { rows: 6, columns: 16, pack: [pack::<6>, pack::<16>], multiply: tile::<6, 16, true> };
        }
        Self { rows: 4, columns: 8, pack: [pack::<4>, pack::<8>], multiply: tile::<4, 8, false> }
    }

    /// Packs rows of the left matrix, from its first column to `depth`.
    pub(crate) fn pack_left(&self, rows: Rows<'_>, depth: usize, panels: &mut [f32]) {
        (self.pack[0])(rows, depth, panels);
    }

    /// The same of the right matrix.
    pub(crate) fn pack_right(&self, rows: Rows<'_>, depth: usize, panels: &mut [f32]) {
        (self.pack[1])(rows, depth, panels);
    }

    /// Adds to c the products of all panels of the left matrix with one of the right one. The rows of c are `stride` apart.
    pub(crate) fn multiply(&self, left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
        let depth = right.len() / self.columns;
        for (panel, c) in left.chunks_exact(self.rows * depth).zip(c.chunks_mut(self.rows * stride)) {
            (self.multiply)(panel, right, c, stride);
        }
    }
}

/// Packs rows into panels `[depth][R]` of R rows, one panel after another, as many as fit.
fn pack<const R: usize>(rows: Rows<'_>, depth: usize, panels: &mut [f32]) {
    for (at, panel) in panels.chunks_exact_mut(R * depth).enumerate() {
        let first = at * R;
        let start = &rows.data[(first.min(rows.count) * rows.row).min(rows.data.len())..];
        if first + R > rows.count {
            for (k, out) in panel.chunks_exact_mut(R).enumerate() {
                let there = rows.count.saturating_sub(first);
                (0..R).for_each(|i| out[i] = if i < there { start[i * rows.row + k * rows.column] } else { 0.0 });
            }
        } else if rows.row == 1 {
            for (k, out) in panel.chunks_exact_mut(R).enumerate() {
                out.copy_from_slice(&start[k * rows.column..][..R]);
            }
        } else {
            let each: [&[f32]; R] = std::array::from_fn(|i| &start[i * rows.row..][..depth]);
            for (k, out) in panel.chunks_exact_mut(R).enumerate() {
                (0..R).for_each(|i| out[i] = each[i][k]);
            }
        }
    }
}

/// The kernel in plain Rust: the compiler keeps the tile in registers.
#[inline(always)]
fn tile<const R: usize, const C: usize, const FUSED: bool>(left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
    let mut sums = [[0.0f32; C]; R];
    for (i, sums) in sums.iter_mut().enumerate() {
        sums.copy_from_slice(&c[i * stride..][..C]);
    }
    for (a, b) in left.chunks_exact(R).zip(right.chunks_exact(C)) {
        for i in 0..R {
            for j in 0..C {
                let sum = &mut sums[i][j];
                *sum = if FUSED { a[i].mul_add(b[j], *sum) } else { *sum + a[i] * b[j] };
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        c[i * stride..][..C].copy_from_slice(sums);
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512(left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
    #[target_feature(enable = "avx512f")]
    fn fused(left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
        tile::<12, 32, true>(left, right, c, stride);
    }
    // SAFETY: a kernel is only made with this function if the machine has AVX-512.
    unsafe { fused(left, right, c, stride) }
}

#[cfg(target_arch = "x86_64")]
fn avx2(left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
    #[target_feature(enable = "avx2,fma")]
    fn fused(left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
        tile::<6, 16, true>(left, right, c, stride);
    }
    // SAFETY: a kernel is only made with this function if the machine has AVX2 and FMA.
    unsafe { fused(left, right, c, stride) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel of this machine on panels that are not full, against plain sums.
    #[test]
    fn panels_multiply_to_the_products_of_rows() {
        let plain = Kernel { rows: 4, columns: 8, pack: [pack::<4>, pack::<8>], multiply: tile::<4, 8, false> };
        let mut kernels = vec![Kernel::new(), plain];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            kernels.push(Kernel { rows: 6, columns: 16, pack: [pack::<6>, pack::<16>], multiply: avx2 });
        }
        for kernel in kernels {
            for (rows, columns, depth) in [(1, 1, 1), (13, 33, 7), (24, 64, 40)] {
                let value = |i: usize| (i * 37 % 101) as f32 - 50.0;
                let a: Vec<f32> = (0..rows * depth).map(value).collect();
                // The right matrix has its columns first.
                let b: Vec<f32> = (0..columns * depth).map(|i| value(i + 11)).collect();
                let all = [rows.next_multiple_of(kernel.rows), columns.next_multiple_of(kernel.columns)];
                let (mut left, mut right) = (vec![f32::NAN; all[0] * depth], vec![f32::NAN; all[1] * depth]);
                kernel.pack_left(Rows { data: &a, count: rows, row: depth, column: 1 }, depth, &mut left);
                kernel.pack_right(Rows { data: &b, count: columns, row: 1, column: columns }, depth, &mut right);
                let mut c = vec![1.0; all[0] * all[1]];
                for (at, panel) in right.chunks_exact(kernel.columns * depth).enumerate() {
                    kernel.multiply(&left, panel, &mut c[at * kernel.columns..], all[1]);
                }
                for i in 0..rows {
                    for j in 0..columns {
                        // Whole numbers: every order gives the same.
                        let sum: f32 = (0..depth).map(|k| a[i * depth + k] * b[k * columns + j]).sum();
                        assert_eq!(c[i * all[1] + j], 1.0 + sum, "{} by {}: {i} {j}", kernel.rows, kernel.columns);
                    }
                }
            }
        }
    }
}
