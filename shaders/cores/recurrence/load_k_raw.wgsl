// Loads the key vectors of a tile as stored, and its values: [TILE][DIM_K4] of wg_u. For operators whose features need the
// whole vector.
//
// Prelude constant: DIM_K4, groups of four of D. The operator declares wg_u.
fn load_k(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return f32(k[at + d]);
}

// Loads tokens first .. first + TILE of one KV head. From token `end` on vectors are zero, and so are their features.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    let g = p.kv % params.kv_heads;
    let k_head = head_start(params.k, p.kv / params.kv_heads, g);
    for (var i = invocation; i < TILE * DIM_K4; i += INVOCATIONS) {
        let n = first + i / DIM_K4;
        let d = i % DIM_K4 * 4u;
        var row = vec4<f32>(0.0);
        if (n < end) {
            let at = k_head + n * params.k.token;
            row = vec4<f32>(load_k(at, d), load_k(at, d + 1u), load_k(at, d + 2u), load_k(at, d + 3u));
        }
        wg_u[i] = row;
    }
    load_values(p, first, end, invocation);
}
