// The keys that a query sees: the same rule for the whole sequence.
override ALIGN_START: u32 = 0u; // causal: 1: query 0 is aligned with key 0; 0: the last query with the last key

// One past the position of query n among so many keys.
fn position_end(n: u32, keys: u32) -> u32 {
    if (ALIGN_START != 0u) {
        return n + 1u;
    }
    return u32(max(i32(n) + 1 + i32(keys) - i32(params.queries), 0));
}

// One past the last of so many keys that query n sees.
fn keys_end(n: u32, keys: u32) -> u32 {
    if (CAUSAL == 0u) {
        return keys;
    }
    return min(position_end(n, keys), keys);
}

// The first of so many keys that query n sees.
fn keys_start(n: u32, keys: u32) -> u32 {
    if (CAUSAL == 0u || params.window == 0u) {
        return 0u;
    }
    let end = position_end(n, keys);
    return min(end - min(end, params.window), keys);
}
