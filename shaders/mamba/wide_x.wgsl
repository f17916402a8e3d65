// Loads of x by four tokens, where N is a multiple of four.
@group(0) @binding(X_BINDING) var<storage, read> x: array<vec4<Elem>>; // B C N

fn load_x(row: u32, n: u32) -> vec4<f32> {
    return turned(vec4<f32>(x[group_of(row * params.length - params.base, n)]));
}
