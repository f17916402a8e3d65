// Loads of x and stores of its projection, four elements at once: the head dimension, strides and starts are multiples of four.
@group(0) @binding(X_BINDING) var<storage, read> x: array<vec4<Elem>>; // B G M dim: k or v
@group(0) @binding(PROJECTED_BINDING) var<storage, read_write> projected: array<vec4<f32>>; // [splits][units][K][dim]

fn load_x(row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(x[(row + min(d, params.dim - 4u)) / 4u]);
}

fn store_projected(row: u32, d: u32, four: vec4<f32>) {
    if (d < params.dim) {
        projected[(row + d) / 4u] = four;
    }
}
