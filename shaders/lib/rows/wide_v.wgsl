// Loads of v (wide.wgsl).
@group(0) @binding(V_BINDING) var<storage, read> v: array<KeyRow>; // values: B G M E

fn load_v(row: u32, e: u32) -> vec4<f32> {
    return vec4<f32>(v[(row + min(e, params.dim_v - 4u)) / 4u]);
}
