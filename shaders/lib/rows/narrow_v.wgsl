// Loads of v (narrow.wgsl).
@group(0) @binding(V_BINDING) var<storage, read> v: array<KeyRow>; // values: B G M E

fn load_v(row: u32, e: u32) -> vec4<f32> {
    let at = four(row, e, params.dim_v);
    return vec4<f32>(f32(v[at.x]), f32(v[at.y]), f32(v[at.z]), f32(v[at.w]));
}
