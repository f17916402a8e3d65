// Loads of dt by four tokens, where N is a multiple of four.
@group(0) @binding(DT_BINDING) var<storage, read> dt: array<vec4<Elem>>; // B C N

fn load_dt(row: u32, n: u32) -> vec4<f32> {
    return turned(vec4<f32>(dt[group_of(row * params.length - params.base, n)]));
}
