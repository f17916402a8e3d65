// Loads of x, element by element (x_wide.wgsl).
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // N K

fn load_x(row: u32, k: u32) -> vec4<f32> {
    let last = params.inner - 1u;
    let at = row * params.inner - params.x_base + min(vec4<u32>(k, k + 1u, k + 2u, k + 3u), vec4<u32>(last));
    return vec4<f32>(f32(x[at.x]), f32(x[at.y]), f32(x[at.z]), f32(x[at.w]));
}
