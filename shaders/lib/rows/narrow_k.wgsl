// Loads of k (narrow.wgsl).
@group(0) @binding(K_BINDING) var<storage, read> k: array<KeyRow>; // keys: B, heads of k, M, D

fn load_k(row: u32, d: u32) -> vec4<f32> {
    let at = four(row, d, params.dim_k);
    return vec4<f32>(f32(k[at.x]), f32(k[at.y]), f32(k[at.z]), f32(k[at.w]));
}
