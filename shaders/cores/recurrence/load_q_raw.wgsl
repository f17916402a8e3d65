// Loads the query vectors of a tile as stored, after those of the keys (load_k_raw.wgsl): [READ_HEADS][TILE][DIM_K4] of
// wg_u, starting at TILE DIM_K4.

// Loads tokens first .. first + TILE of this workgroup's query heads, with zeros for rows that are none.
fn load_queries(p: Place, first: u32, end: u32, invocation: u32) {
    for (var turn = 0u; turn < (READ_HEADS * TILE * DIM_K4 + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((READ_HEADS * TILE * DIM_K4) % INVOCATIONS != 0u && i >= READ_HEADS * TILE * DIM_K4) {
            break;
        }
        let row = i / DIM_K4;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        let d = i % DIM_K4 * 4u;
        let there = n < end && r < p.group;
        let head = head_start(params.q, p.b, query_head(p, r));
        count_load(select(0u, four_of(d, params.dim_k), there));
        let values = load_q(head + min(n, end - 1u) * params.q.token, d);
        wg_u[TILE * DIM_K4 + i] = select(vec4<f32>(0.0), values, within(d, params.dim_k) & vec4<bool>(there));
    }
}
