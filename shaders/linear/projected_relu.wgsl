// performer-relu: features max(omega x, 0) of the tile just loaded: keys, queries or both.
fn finish_tile(p: Place, keys: bool, queries: bool, invocation: u32) {
    let first = select(TILE, 0u, keys);
    let count = select(TILE, VECTORS, queries) - first;
    workgroupBarrier();
    // Neighbouring invocations share rows of omega.
    for (var i = invocation; i < count * DIM4; i += INVOCATIONS) {
        let vector = first + i % count;
        wg_phi[vector * DIM4 + i / count] = max(project(vector, i / count, p.key_head), vec4<f32>(0.0));
    }
}
