// Loads of a projection, four elements at once: the length of its rows is a multiple of four.
@group(0) @binding(MATRIX_BINDING) var<storage, read> matrix: array<vec4<f32>>; // 1|H K M: e or f

fn load_matrix(row: u32, token: u32) -> vec4<f32> {
    return matrix[(row + min(token, params.matrix_row - 4u)) / 4u];
}
