// Every batch entry is one sequence.

// The sequence of a token, and the first token of that sequence.
fn sequence_of(n: u32) -> vec2<u32> {
    return vec2<u32>(0u, 0u);
}

// First token of a sequence, and the one after its last.
fn sequence_span(s: u32) -> vec2<u32> {
    return vec2<u32>(0u, params.length);
}
