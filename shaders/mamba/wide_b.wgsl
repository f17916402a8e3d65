// Loads of b by four tokens, where N is a multiple of four.
@group(0) @binding(B_BINDING) var<storage, read> b: array<vec4<Elem>>; // B G S N

fn load_b(unit: u32, s: u32, n: u32) -> vec4<f32> {
    return turned(vec4<f32>(b[group_of((unit * params.states + s) * params.length - params.base_b, n)]));
}
