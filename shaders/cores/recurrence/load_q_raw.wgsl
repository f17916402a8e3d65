// The query vectors of a tile as stored, after those of the keys (load_k_raw.wgsl): [READ_HEADS][TILE][DIM_K4] of wg_u, starting
// at TILE DIM_K4.
fn put_query(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    wg_u[TILE * DIM_K4 + i] = select(vec4<f32>(0.0), x, there);
}
