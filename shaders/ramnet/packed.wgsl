// Packed sequences, by their borders (lib/packed_tokens.wgsl). No border exceeds N, so that no kernel leaves its tensors whatever the borders are.
@group(0) @binding(CU_SEQLENS_BINDING) var<storage, read> cu_seqlens: array<u32>; // S + 1

override BACKWARD: u32 = 0u; // 1: tokens and sequences are numbered from the last to the first

fn border(s: u32) -> u32 {
    count_load(1u);
    let given = min(cu_seqlens[select(s, params.sequences - s, BACKWARD == 1u)], params.length);
    return select(given, params.length - given, BACKWARD == 1u);
}

// The sequence of a token, and the first token of that sequence.
fn sequence_of(n: u32) -> vec2<u32> {
    let s = packed_sequence(n);
    return vec2<u32>(s, border(s));
}

// First token of a sequence, and the one after its last.
fn sequence_span(s: u32) -> vec2<u32> {
    return vec2<u32>(border(s), border(s + 1u));
}
