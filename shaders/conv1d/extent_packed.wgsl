// Sequences that are packed one after another into the only batch entry (lib/packed_tokens.wgsl). No border counts as more than
// N, so that no kernel leaves its tensors whatever the borders are.
@group(0) @binding(CU_SEQLENS_BINDING) var<storage, read> cu_seqlens: array<u32>; // borders, S+1

fn border(s: u32) -> u32 {
    count_load(1u);
    return min(cu_seqlens[s], params.length);
}

// The first token of a sequence, and one past its last.
fn extent(sequence: u32) -> vec2<u32> {
    let start = border(sequence);
    return vec2<u32>(start, max(start, border(sequence + 1u)));
}
