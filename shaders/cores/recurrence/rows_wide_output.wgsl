// Loads of q and stores of o (rows_wide.wgsl).
fn load_q(row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(q[(row + min(d, params.dim_k - 4u)) / 4u]);
}

fn store_o(row: u32, e: u32, values: vec4<f32>) {
    if (e < params.dim_v) {
        o[(row + e) / 4u] = vec4<Elem>(values);
    }
}
