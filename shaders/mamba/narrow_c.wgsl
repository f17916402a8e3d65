// Loads of c by single tokens, for any N.
@group(0) @binding(C_BINDING) var<storage, read> c: array<Elem>; // B G S N

fn load_c(unit: u32, s: u32, n: u32) -> vec4<f32> {
    let at = elements_of((unit * params.states + s) * params.length - params.base_b, n);
    return vec4<f32>(f32(c[at.x]), f32(c[at.y]), f32(c[at.z]), f32(c[at.w]));
}
