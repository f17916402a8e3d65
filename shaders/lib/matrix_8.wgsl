// Matrices of 8 by 8 elements that the invocations of a subgroup hold together (matrix_units.wgsl): two factors of f16,
// A and B, and a sum of f32, C.
const TILE: u32 = 8u;
alias MatrixA = coop_mat8x8<f16, A>;
alias MatrixB = coop_mat8x8<f16, B>;
alias MatrixC = coop_mat8x8<f32, C>;
