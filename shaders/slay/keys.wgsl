// Computes the features of the tile just loaded: keys, queries or both.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {
    let first = select(TILE, 0u, keys);
    make_features(first, select(TILE, VECTORS, queries) - first, p.key_head, invocation);
}

// The weights stay in workgroup memory for the whole walk, if they fit.
fn begin_walk(p: Place, segment: u32, stored: bool, invocation: u32) {
    cache_weights(p.key_head, invocation);
}

fn end_walk(p: Place, store: bool, invocation: u32) {}
