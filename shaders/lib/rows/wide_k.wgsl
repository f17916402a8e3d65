// Loads of k (wide.wgsl).
@group(0) @binding(K_BINDING) var<storage, read> k: array<KeyRow>; // keys: B, heads of k, M, D

fn load_k(row: u32, d: u32) -> vec4<f32> {
    return vec4<f32>(k[(row + min(d, params.dim_k - 4u)) / 4u]);
}
