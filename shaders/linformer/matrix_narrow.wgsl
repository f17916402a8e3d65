// Loads of a projection, element by element.
@group(0) @binding(MATRIX_BINDING) var<storage, read> matrix: array<f32>; // 1|H K M: e or f

fn load_matrix(row: u32, token: u32) -> vec4<f32> {
    let at = four(row, token, params.matrix_row);
    return vec4<f32>(matrix[at.x], matrix[at.y], matrix[at.z], matrix[at.w]);
}
