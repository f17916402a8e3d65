// Computes the features of the tile just loaded: keys, queries or both.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {
    let first = select(TILE, 0u, keys);
    make_features(first, select(TILE, VECTORS, queries) - first, p.g, invocation);
}
