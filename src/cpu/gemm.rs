//! Kernels of matrix products: tiles in registers, and panels packed in the order in which a kernel reads them.
//!
//! A kernel multiplies a few rows of the left matrix by a few columns of the right one: `c += a b`. It reads elements of the left
//! matrix one by one, wherever they are, and a few columns of the right one at once, which must lie side by side. Which kernel a
//! machine has does not change which sums are added in which order, but only some of them fuse multiplications with additions.

/// Columns of the left matrix that are multiplied at once: panels of them stay in a cache.
pub(crate) const DEPTH: usize = 512;

/// A kernel with the sizes of its tile.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// Rows of a panel of the left matrix.
    pub(crate) rows: usize,
    /// Columns of a panel of the right matrix.
    pub(crate) columns: usize,
    pack: [Pack; 2],
    /// Tiles of all columns, and of one row, of two, and so on.
    tiles: &'static [Tile],
}

/// Packs rows of a matrix into panels: see [`pack`]. The machine must have the instructions of the kernel.
type Pack = unsafe fn(Rows<'_>, usize, &mut [f32]);

/// Writes the product of some rows and columns to a tile whose rows are `stride` apart, or adds it if `sum`.
type Tile = unsafe fn(Operands, c: *mut f32, stride: usize, sum: bool);

/// Where the operands of a tile are.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    /// Element (i, k) is at `i * left_row + k * left_column`.
    pub(crate) left: *const f32,
    pub(crate) left_row: usize,
    pub(crate) left_column: usize,
    /// Element (k, j) is at `k * right_row + j`.
    pub(crate) right: *const f32,
    pub(crate) right_row: usize,
    /// Number of products in a sum.
    pub(crate) depth: usize,
}

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
                return x86::AVX512;
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return x86::AVX2;
            }
        }
        if cfg!(target_arch = "aarch64") {
            return FUSED;
        }
        PLAIN
    }

    /// Packs rows of the left matrix, from its first column to `depth`.
    pub(crate) fn pack_left(&self, rows: Rows<'_>, depth: usize, panels: &mut [f32]) {
        // SAFETY: the machine has the instructions of its kernel.
        unsafe { (self.pack[0])(rows, depth, panels) };
    }

    /// Packs columns of the right matrix, which are the rows here, in the same way.
    pub(crate) fn pack_right(&self, rows: Rows<'_>, depth: usize, panels: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.pack[1])(rows, depth, panels) };
    }

    /// Adds to c the products of all panels of the left matrix with one of the right one. The rows of c are `stride` apart.
    pub(crate) fn multiply(&self, left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
        let (depth, tile) = (right.len() / self.columns, self.tiles[self.rows - 1]);
        for (panel, c) in left.chunks_exact(self.rows * depth).zip(c.chunks_mut(self.rows * stride)) {
            assert!((self.rows - 1) * stride + self.columns <= c.len(), "a tile past the end of its matrix");
            let of = Operands {
                left: panel.as_ptr(),
                left_row: 1,
                left_column: self.rows,
                right: right.as_ptr(),
                right_row: self.columns,
                depth,
            };
            // SAFETY: the panels have `depth` columns and rows, and the tile lies inside c.
            unsafe { tile(of, c.as_mut_ptr(), stride, true) };
        }
    }

    /// The next tile for so many rows, which are at least one, and its height. Heights differ by one at most.
    pub(crate) fn tile(&self, rows: usize) -> (usize, Tile) {
        let height = rows.div_ceil(rows.div_ceil(self.rows));
        (height, self.tiles[height - 1])
    }
}

/// A kernel of any machine.
const PLAIN: Kernel = Kernel {
    rows: 4,
    columns: 8,
    pack: [pack::<4>, pack::<8>],
    tiles: &[tile::<1, 8, false>, tile::<2, 8, false>, tile::<3, 8, false>, tile::<4, 8, false>],
};

/// A kernel of a machine with 32 registers of four floats and fused multiply-add.
#[rustfmt::skip]
const FUSED: Kernel = Kernel {
    rows: 6,
    columns: 16,
    pack: [pack::<6>, pack::<16>],
    tiles: &[
        tile::<1, 16, true>, tile::<2, 16, true>, tile::<3, 16, true>, tile::<4, 16, true>, tile::<5, 16, true>,
        tile::<6, 16, true>,
    ],
};

/// Rows and columns of the largest tile of any kernel.
pub(crate) const LARGEST: [usize; 2] = [12, 32];

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

/// A tile in plain Rust: the compiler keeps it in registers.
///
/// # Safety
/// All elements that [`Operands`] names must be there, and R rows of C elements at c, which nothing else accesses.
#[allow(
    clippy::needless_range_loop,
    reason = "with iterators the compiler keeps the tile in memory, which is ten times slower"
)]
#[inline(always)]
unsafe fn tile<const R: usize, const C: usize, const FUSED: bool>(of: Operands, c: *mut f32, stride: usize, sum: bool) {
    let mut sums = [[0.0f32; C]; R];
    // SAFETY: the caller keeps the contract of this function.
    unsafe {
        if sum {
            for i in 0..R {
                sums[i] = c.add(i * stride).cast::<[f32; C]>().read();
            }
        }
        let (mut left, mut right) = (of.left, of.right);
        for _ in 0..of.depth {
            let b = right.cast::<[f32; C]>().read();
            for i in 0..R {
                let a = left.add(i * of.left_row).read();
                for j in 0..C {
                    sums[i][j] = if FUSED { a.mul_add(b[j], sums[i][j]) } else { sums[i][j] + a * b[j] };
                }
            }
            left = left.wrapping_add(of.left_column);
            right = right.wrapping_add(of.right_row);
        }
        for i in 0..R {
            c.add(i * stride).cast::<[f32; C]>().write(sums[i]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Kernel, Operands, Rows, tile};

    /// The kernel of AVX-512: 24 of the 32 registers of 16 floats hold a tile.
    #[rustfmt::skip]
    pub(super) const AVX512: Kernel = Kernel {
        rows: 12,
        columns: 32,
        pack: [super::pack::<12>, pack::<32>],
        tiles: &[
            avx512::<1>, avx512::<2>, avx512::<3>, avx512::<4>, avx512::<5>, avx512::<6>, avx512::<7>, avx512::<8>, avx512::<9>,
            avx512::<10>, avx512::<11>, avx512::<12>,
        ],
    };

    /// The kernel of AVX2: 12 of the 16 registers of 8 floats hold a tile.
    pub(super) const AVX2: Kernel = Kernel {
        rows: 6,
        columns: 16,
        pack: [super::pack::<6>, pack::<16>],
        tiles: &[avx2::<1>, avx2::<2>, avx2::<3>, avx2::<4>, avx2::<5>, avx2::<6>],
    };

    /// A tile with AVX-512.
    ///
    /// # Safety
    /// The machine must have AVX-512, and the caller keeps the contract of [`tile`].
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const R: usize>(of: Operands, c: *mut f32, stride: usize, sum: bool) {
        // SAFETY: the caller keeps the contract of `tile`.
        unsafe { tile::<R, 32, true>(of, c, stride, sum) }
    }

    /// A tile with AVX2 and FMA.
    ///
    /// # Safety
    /// The machine must have both, and the caller keeps the contract of [`tile`].
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize>(of: Operands, c: *mut f32, stride: usize, sum: bool) {
        // SAFETY: the caller keeps the contract of `tile`.
        unsafe { tile::<R, 16, true>(of, c, stride, sum) }
    }

    /// Packs rows into panels of R of them, a multiple of 8.
    #[target_feature(enable = "avx2")]
    pub(super) fn pack<const R: usize>(rows: Rows<'_>, depth: usize, panels: &mut [f32]) {
        let whole = depth / 8 * 8;
        for (at, panel) in panels.chunks_exact_mut(R * depth).enumerate() {
            let first = at * R;
            if first + R > rows.count || rows.row == 1 || whole == 0 {
                let data = &rows.data[(first.min(rows.count) * rows.row).min(rows.data.len())..];
                super::pack::<R>(Rows { data, count: rows.count.saturating_sub(first), ..rows }, depth, panel);
                continue;
            }
            for k in (0..whole).step_by(8) {
                for i in (0..R).step_by(8) {
                    let row = |row: usize| {
                        *rows.data[(first + i + row) * rows.row + k..].first_chunk::<8>().unwrap_or(&[0.0; 8])
                    };
                    turned(
                        [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)],
                        &mut panel[k * R + i..],
                        R,
                    );
                }
            }
            for k in whole..depth {
                (0..R).for_each(|i| panel[k * R + i] = rows.data[(first + i) * rows.row + k]);
            }
        }
    }

    /// Writes columns of rows as rows, `stride` apart.
    #[target_feature(enable = "avx2")]
    fn turned(rows: [[f32; 8]; 8], out: &mut [f32], stride: usize) {
        // SAFETY: eight floats have the size of a vector.
        let r = rows.map(|row| unsafe { std::mem::transmute::<[f32; 8], __m256>(row) });
        let pairs = [0, 2, 4, 6].map(|i| [_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1])]);
        let [upper, lower] = [0, 2].map(|i| {
            let [[a, b], [c, d]] = [pairs[i], pairs[i + 1]];
            [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xee>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xee>(b, d),
            ]
        });
        for (i, (a, b)) in upper.into_iter().zip(lower).enumerate() {
            for (half, at) in [(_mm256_permute2f128_ps::<0x20>(a, b), i), (_mm256_permute2f128_ps::<0x31>(a, b), i + 4)]
            {
                // SAFETY: as above.
                out[at * stride..][..8].copy_from_slice(&unsafe { std::mem::transmute::<__m256, [f32; 8]>(half) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel of this machine on panels that are not full, against plain sums.
    #[test]
    fn panels_multiply_to_the_products_of_rows() {
        let mut kernels = vec![Kernel::new(), PLAIN];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            kernels.push(x86::AVX2);
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
