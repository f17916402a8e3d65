// Loads of b by single tokens, for any N.
@group(0) @binding(B_BINDING) var<storage, read> b: array<Elem>; // B G S N

fn load_b(unit: u32, s: u32, n: u32) -> vec4<f32> {
    let at = elements_of((unit * params.states + s) * params.length - params.base_b, n);
    return vec4<f32>(f32(b[at.x]), f32(b[at.y]), f32(b[at.z]), f32(b[at.w]));
}
