// Loads of a weight that is stored as x is, element by element (weight_wide.wgsl).
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<Elem>; // M K

fn load_weight(row: u32, k: u32) -> vec4<f32> {
    let last = params.inner - 1u;
    let at = row * params.inner - params.weight_base + min(vec4<u32>(k, k + 1u, k + 2u, k + 3u), vec4<u32>(last));
    return vec4<f32>(f32(weight[at.x]), f32(weight[at.y]), f32(weight[at.z]), f32(weight[at.w]));
}

fn weight_words(elements: u32) -> u32 {
    return elements;
}
