// Loads the key vectors of a tile as stored, and its values: [TILE][DIM_K4] of wg_u. For operators whose features need the
// whole vector.
//
// Prelude constant: DIM_K4, groups of four of D. The operator declares wg_u.

// Loads tokens first .. first + TILE of one KV head. From `end` on vectors are zero, and so are their features.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    let k_head = head_start(params.k, p.b, p.key_head);
    for (var turn = 0u; turn < (TILE * DIM_K4 + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((TILE * DIM_K4) % INVOCATIONS != 0u && i >= TILE * DIM_K4) {
            break;
        }
        let n = first + i / DIM_K4;
        let d = i % DIM_K4 * 4u;
        count_load(select(0u, four_of(d, params.dim_k), n < end));
        let row = load_k(k_head + min(n, end - 1u) * params.k.token, d);
        wg_u[i] = select(vec4<f32>(0.0), row, within(d, params.dim_k) & vec4<bool>(n < end));
    }
    load_values(p, first, end, invocation);
}
