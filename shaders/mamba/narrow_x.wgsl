// Loads of x by single tokens, for any N.
@group(0) @binding(X_BINDING) var<storage, read> x: array<Elem>; // B C N

fn load_x(row: u32, n: u32) -> vec4<f32> {
    let at = elements_of(row * params.length - params.base, n);
    return vec4<f32>(f32(x[at.x]), f32(x[at.y]), f32(x[at.z]), f32(x[at.w]));
}
