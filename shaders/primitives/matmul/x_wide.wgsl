// Loads of x, four columns at once: K is a multiple of four. Past the end of a row they repeat its last elements.
@group(0) @binding(X_BINDING) var<storage, read> x: array<vec4<Elem>>; // N K

fn load_x(row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(x[(row * params.inner + min(k, params.inner - 4u) - params.x_base) / 4u]);
}
