// Loads of a weight of f32 beside x of f16, four columns at once (weight_wide.wgsl).
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<vec4<f32>>; // M K

fn load_weight(row: u32, k: u32) -> vec4<f32> {
    return weight[(row * params.inner + min(k, params.inner - 4u) - params.weight_base) / 4u];
}

fn weight_words(elements: u32) -> u32 {
    return elements;
}
