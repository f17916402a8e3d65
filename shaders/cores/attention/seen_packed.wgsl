// The keys that a query sees: those of its own sequence, of several that are packed one after another. Needs
// lib/packed_tokens.wgsl.
@group(0) @binding(CU_SEQLENS_BINDING) var<storage, read> cu_seqlens: array<u32>; // borders, S+1

fn border(s: u32) -> u32 {
    count_load(1u);
    return min(cu_seqlens[s], params.keys);
}

// One past the last key that query n sees. `keys` are all keys.
fn keys_end(n: u32, keys: u32) -> u32 {
    if (CAUSAL != 0u) {
        return min(n + 1u, keys);
    }
    return border(packed_sequence(n) + 1u);
}

// The first key that query n sees.
fn keys_start(n: u32, keys: u32) -> u32 {
    let start = border(packed_sequence(n));
    if (CAUSAL == 0u || params.window == 0u) {
        return start;
    }
    return max(start, n + 1u - min(n + 1u, params.window));
}
