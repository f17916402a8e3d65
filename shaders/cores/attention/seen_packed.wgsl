// The keys that a query sees: those of its own sequence, of several that are packed one after another.
@group(0) @binding(CU_SEQLENS_BINDING) var<storage, read> cu_seqlens: array<u32>; // borders, S+1

// The border before token n (side 0) or after it (side 1). Borders do not decrease; empty sequences have two equal ones.
fn border(n: u32, side: u32) -> u32 {
    // The last border that is at most n, between these two.
    var low = 0u;
    var high = params.sequences;
    while (low + 1u < high) {
        let middle = (low + high) / 2u;
        count_load(1u);
        if (cu_seqlens[middle] <= n) {
            low = middle;
        } else {
            high = middle;
        }
    }
    count_load(1u);
    return min(cu_seqlens[low + side], params.keys);
}

// One past the last key that query n sees. `keys` are all keys.
fn keys_end(n: u32, keys: u32) -> u32 {
    if (CAUSAL != 0u) {
        return min(n + 1u, keys);
    }
    return border(n, 1u);
}

// The first key that query n sees.
fn keys_start(n: u32, keys: u32) -> u32 {
    let start = border(n, 0u);
    if (CAUSAL == 0u || params.window == 0u) {
        return start;
    }
    return max(start, n + 1u - min(n + 1u, params.window));
}
