// Loads of z by single tokens, for any N.
@group(0) @binding(Z_BINDING) var<storage, read> z: array<Elem>; // B C N

fn load_z(row: u32, n: u32) -> vec4<f32> {
    let at = elements_of(row * params.length - params.base, n);
    return vec4<f32>(f32(z[at.x]), f32(z[at.y]), f32(z[at.z]), f32(z[at.w]));
}
