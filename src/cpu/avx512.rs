//! The kernel of [`super::gemm`] for AVX-512, in assembly: the compiler offers its registers only from Rust 1.89 on.

use std::arch::asm;

/// Rows and columns of a tile.
const ROWS: usize = 12;
const COLUMNS: usize = 32;

/// Whether the machine has it.
pub(super) fn is_supported() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// Moves both halves of every row of the tile between memory and its registers.
macro_rules! rows {
    (load $($low:literal $high:literal),*) => {
        concat!($("vmovups zmm", $low, ", [{row}]\nvmovups zmm", $high, ", [{row} + 64]\nadd {row}, {stride}\n"),*)
    };
    (store $($low:literal $high:literal),*) => {
        concat!($("vmovups [{row}], zmm", $low, "\nvmovups [{row} + 64], zmm", $high, "\nadd {row}, {stride}\n"),*)
    };
}

/// Multiplies elements of the left panel, at these bytes, by 32 of the right one. Every element takes one of four registers in
/// turn, so that none waits for another.
macro_rules! products {
    ($($at:literal $own:literal $low:literal $high:literal),*) => {
        concat!($(
            "vbroadcastss zmm", $own, ", [{left} + ", $at, "]\n",
            "vfmadd231ps zmm", $low, ", zmm24, zmm", $own, "\n",
            "vfmadd231ps zmm", $high, ", zmm25, zmm", $own, "\n"
        ),*)
    };
}

/// Adds the products of two panels of equal depth to a tile whose rows are `stride` apart.
pub(super) fn multiply(left: &[f32], right: &[f32], c: &mut [f32], stride: usize) {
    let depth = right.len() / COLUMNS;
    assert!(depth > 0 && left.len() >= depth * ROWS, "panels of unequal depth");
    assert!(stride >= COLUMNS && c.len() >= (ROWS - 1) * stride + COLUMNS, "a tile past the end of its matrix");
    // SAFETY: the asserts keep all loads and stores within the slices, c is borrowed mutably, and a kernel is only made with this
    // function if the machine has AVX-512. Registers 16 to 31 are no one else's: only code for AVX-512 uses them.
    unsafe {
        asm!(
            "mov {row}, {c}",
            rows!(load "0" "1", "2" "3", "4" "5", "6" "7", "8" "9", "10" "11", "12" "13", "14" "15", "16" "17", "18" "19",
                "20" "21", "22" "23"),
            "2:",
            "vmovups zmm24, [{right}]",
            "vmovups zmm25, [{right} + 64]",
            products!("0" "26" "0" "1", "4" "27" "2" "3", "8" "28" "4" "5", "12" "29" "6" "7", "16" "26" "8" "9",
                "20" "27" "10" "11", "24" "28" "12" "13", "28" "29" "14" "15", "32" "26" "16" "17", "36" "27" "18" "19",
                "40" "28" "20" "21", "44" "29" "22" "23"),
            "add {left}, 48",
            "add {right}, 128",
            "dec {depth}",
            "jnz 2b",
            "mov {row}, {c}",
            rows!(store "0" "1", "2" "3", "4" "5", "6" "7", "8" "9", "10" "11", "12" "13", "14" "15", "16" "17", "18" "19",
                "20" "21", "22" "23"),
            "vzeroupper",
            row = out(reg) _,
            c = in(reg) c.as_mut_ptr(),
            stride = in(reg) stride * size_of::<f32>(),
            left = inout(reg) left.as_ptr() => _,
            right = inout(reg) right.as_ptr() => _,
            depth = inout(reg) depth => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
            out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
}
