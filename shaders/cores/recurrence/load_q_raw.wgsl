// Loads the query vectors of a tile as stored, after those of the keys (vectors_keys.wgsl): [READ_HEADS][TILE][DIM_K4] of
// wg_u, starting at TILE DIM_K4.
fn load_q(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return f32(q[at + d]);
}

// Loads tokens first .. first + TILE of this workgroup's query heads, with zeros from token `end` on.
fn load_queries(p: Place, first: u32, end: u32, invocation: u32) {
    let per_kv = params.heads / params.kv_heads;
    let b = p.kv / params.kv_heads;
    let g = p.kv % params.kv_heads;
    for (var i = invocation; i < READ_HEADS * TILE * DIM_K4; i += INVOCATIONS) {
        let row = i / DIM_K4;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        let d = i % DIM_K4 * 4u;
        var values = vec4<f32>(0.0);
        if (n < end && r < per_kv) {
            let at = head_start(params.q, b, g * per_kv + r) + n * params.q.token;
            values = vec4<f32>(load_q(at, d), load_q(at, d + 1u), load_q(at, d + 2u), load_q(at, d + 3u));
        }
        wg_u[TILE * DIM_K4 + i] = values;
    }
}
