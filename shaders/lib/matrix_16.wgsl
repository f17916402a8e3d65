// Matrices of 16 by 16 elements that the invocations of a subgroup hold together (matrix_units.wgsl): two factors of f16,
// A and B, and a sum of f32, C.
const TILE: u32 = 16u;
alias MatrixA = coop_mat16x16<f16, A>;
alias MatrixB = coop_mat16x16<f16, B>;
alias MatrixC = coop_mat16x16<f32, C>;
