// Loads of z by four tokens, where N is a multiple of four.
@group(0) @binding(Z_BINDING) var<storage, read> z: array<vec4<Elem>>; // B C N

fn load_z(row: u32, n: u32) -> vec4<f32> {
    return turned(vec4<f32>(z[group_of(row * params.length - params.base, n)]));
}
