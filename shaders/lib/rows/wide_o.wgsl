// Loads and stores of o (wide.wgsl).
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<vec4<Out>>; // B H N E

fn load_o(row: u32, e: u32) -> vec4<f32> {
    return vec4<f32>(o[(row + min(e, params.dim_v - 4u)) / 4u]);
}

fn store_o(row: u32, e: u32, values: vec4<f32>) {
    if (e < params.dim_v) {
        o[(row + e) / 4u] = vec4<Out>(values);
    }
}
