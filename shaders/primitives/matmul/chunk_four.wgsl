// Chunks of the weight's rows for vector.wgsl: the four columns that the fragment for the weight loads.
const PARTS_OF_CHUNK: u32 = 1u;
alias Chunk = vec4<f32>;

fn load_chunk(row: u32, k: u32) -> Chunk {
    return load_weight(row, k);
}

fn chunk_part(chunk: Chunk, part: u32) -> vec4<f32> {
    return chunk;
}

// Words that a load reads.
fn chunk_words(k: u32) -> u32 {
    return weight_words(four_of(k, params.inner));
}
