// Loads of a weight of f16 beside x of f32, four columns at once as two words (weight_wide.wgsl). Needs halves_device.wgsl or
// halves_software.wgsl.
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<vec2<u32>>; // M K

fn load_weight(row: u32, k: u32) -> vec4<f32> {
    let words = weight[(row * params.inner + min(k, params.inner - 4u) - params.weight_base) / 4u];
    return vec4<f32>(halves(words.x), halves(words.y));
}

fn weight_words(elements: u32) -> u32 {
    return elements / 2u;
}
