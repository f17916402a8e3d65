// Features of a tile of queries in workgroup memory, for elementwise feature maps. Outputs are complete in one dispatch.

// Features of the queries, [READ_HEADS][TILE][DIM4].
var<workgroup> wg_q: array<vec4<f32>, READ_HEADS * TILE * DIM4>;

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return wg_q[row * DIM4 + i];
}

fn query_feature_at(row: u32, d: u32) -> f32 {
    return wg_q[row * DIM4 + d / 4u][d % 4u];
}

fn combine_row_splits(row: u32, split: u32, e: u32, sum: ptr<function, vec4<f32>>, weight: ptr<function, f32>) -> bool {
    return true;
}

// Loads tokens first .. first + TILE of this workgroup's query heads. Rows that are none repeat another, and have features of
// zero.
fn load_queries(p: Place, first: u32, end: u32, invocation: u32) {
    for (var turn = 0u; turn < (READ_HEADS * TILE * DIM4 + INVOCATIONS - 1u) / INVOCATIONS; turn++) {
        let i = invocation + turn * INVOCATIONS;
        if ((READ_HEADS * TILE * DIM4) % INVOCATIONS != 0u && i >= READ_HEADS * TILE * DIM4) {
            break;
        }
        let row = i / DIM4;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        let d = (i % DIM4) * 4u;
        let there = n < end && r < p.group;
        let head = head_start(params.q, p.b, query_head(p, r));
        count_load(select(0u, four_of(d, params.dim_k), there));
        let values = feature(load_q(head + min(n, end - 1u) * params.q.token, d));
        wg_q[i] = select(vec4<f32>(0.0), values, within(d, params.dim_k) & vec4<bool>(there));
    }
}
