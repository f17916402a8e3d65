// Chunks of the rows of a weight of f16 for vector.wgsl, eight columns at once as four words: K is a multiple of eight. Needs
// halves_device.wgsl or halves_software.wgsl.
@group(0) @binding(WEIGHT_BINDING) var<storage, read> weight: array<vec4<u32>>; // M K

const PARTS_OF_CHUNK: u32 = 2u;
alias Chunk = vec4<u32>;

fn load_chunk(row: u32, k: u32) -> Chunk {
    return weight[(row * params.inner + min(k, params.inner - 8u) - params.weight_base) / 8u];
}

fn chunk_part(chunk: Chunk, part: u32) -> vec4<f32> {
    let words = select(chunk.xy, chunk.zw, part > 0u);
    return vec4<f32>(halves(words.x), halves(words.y));
}

// Words that a load reads.
fn chunk_words(k: u32) -> u32 {
    return select(0u, 4u, k < params.inner);
}
