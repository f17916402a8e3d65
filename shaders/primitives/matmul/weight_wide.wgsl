// Loads of a weight that is stored as x is, four columns at once: K is a multiple of four. Past the end of a row they repeat
// its last elements.
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<vec4<Elem>>; // M K

fn load_weight(row: u32, k: u32) -> vec4<f32> {
    return vec4<f32>(weight[(row * params.inner + min(k, params.inner - 4u) - params.weight_base) / 4u]);
}

// Words that a load of so many elements reads.
fn weight_words(elements: u32) -> u32 {
    return elements;
}
