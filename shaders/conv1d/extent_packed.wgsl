// Sequences that are packed one after another into the only batch entry. No border counts as more than N, so that no kernel
// leaves its tensors whatever the borders are.
@group(0) @binding(CU_SEQLENS_BINDING) var<storage, read> cu_seqlens: array<u32>; // borders, S+1

// The first token of a sequence, and one past its last.
fn extent(sequence: u32) -> vec2<u32> {
    count_load(2u);
    let start = min(cu_seqlens[sequence], params.length);
    return vec2<u32>(start, max(start, min(cu_seqlens[sequence + 1u], params.length)));
}

// The sequence of a token: the last one that starts at it or before. Empty ones have two equal borders.
fn sequence_of(token: u32) -> u32 {
    var low = 0u;
    var high = params.sequences;
    while (low + 1u < high) {
        let middle = (low + high) / 2u;
        count_load(1u);
        if (cu_seqlens[middle] <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}
