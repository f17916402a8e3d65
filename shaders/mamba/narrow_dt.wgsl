// Loads of dt by single tokens, for any N.
@group(0) @binding(DT_BINDING) var<storage, read> dt: array<Elem>; // B C N

fn load_dt(row: u32, n: u32) -> vec4<f32> {
    let at = elements_of(row * params.length - params.base, n);
    return vec4<f32>(f32(dt[at.x]), f32(dt[at.y]), f32(dt[at.z]), f32(dt[at.w]));
}
