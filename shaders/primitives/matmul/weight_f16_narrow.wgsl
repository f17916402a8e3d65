// Loads of a weight of f16 beside x of f32, a word for each element (weight_f16_wide.wgsl).
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<u32>; // M K

fn load_half(at: u32) -> f32 {
    return halves(weight[at / 2u])[at % 2u];
}

fn load_weight(row: u32, k: u32) -> vec4<f32> {
    let last = params.inner - 1u;
    let at = row * params.inner - params.weight_base + min(vec4<u32>(k, k + 1u, k + 2u, k + 3u), vec4<u32>(last));
    return vec4<f32>(load_half(at.x), load_half(at.y), load_half(at.z), load_half(at.w));
}

fn weight_words(elements: u32) -> u32 {
    return elements;
}
