// cosformer: features of queries, as cosformer_keys.wgsl has them of keys. Outputs are complete in one dispatch.

// Features of the queries, [READ_HEADS][TILE][DIM4].
var<workgroup> wg_q: array<vec4<f32>, READ_HEADS * TILE * DIM4>;

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return select(wg_q[row * DIM4 + i], vec4<f32>(0.0), i >= 2u * DIM_K4);
}

fn query_feature_at(row: u32, d: u32) -> f32 {
    return select(wg_q[row * DIM4 + d / 4u][d % 4u], 0.0, d >= 8u * DIM_K4);
}

fn combine_row_splits(row: u32, split: u32, e: u32, sum: ptr<function, vec4<f32>>, weight: ptr<function, f32>) -> bool {
    return true;
}

// Loads tokens first .. first + TILE of this workgroup's query heads, with zeros from token `end` on.
fn load_queries(p: Place, first: u32, end: u32, invocation: u32) {
    let start = first_place(p.kv);
    for (var i = invocation; i < READ_HEADS * TILE * DIM_K4; i += INVOCATIONS) {
        let row = i / DIM_K4;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        let d = (i % DIM_K4) * 4u;
        let there = n < end && r < p.group;
        let head = head_start(params.q, p.b, query_head(p, r));
        count_load(select(0u, four_of(d, params.dim_k), there));
        let given = max(load_q(head + min(n, end - 1u) * params.q.token, d), vec4<f32>(0.0));
        let values = select(vec4<f32>(0.0), given, within(d, params.dim_k) & vec4<bool>(there));
        let angle = angle_of(start, n);
        wg_q[row * DIM4 + i % DIM_K4] = angle.x * values;
        wg_q[row * DIM4 + DIM_K4 + i % DIM_K4] = angle.y * values;
    }
}
