// Loads of x and stores of its projection, element by element.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B G M dim: k or v
@group(0) @binding(PROJECTED_BINDING) var<storage, read_write> projected: array<f32>; // [splits][units][K][dim]

fn load_x(row: u32, d: u32) -> vec4<f32> {
    let at = four(row, d, params.dim);
    return vec4<f32>(f32(x[at.x]), f32(x[at.y]), f32(x[at.z]), f32(x[at.w]));
}

fn store_projected(row: u32, d: u32, values: vec4<f32>) {
    for (var c = 0u; c < 4u; c++) {
        if (d + c < params.dim) {
            projected[row + d + c] = values[c];
        }
    }
}
