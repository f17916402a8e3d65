// cosformer: features of queries, as turned_keys.wgsl has them of keys. Outputs are complete in one dispatch.

// Features of the queries, [READ_HEADS][TILE][DIM4].
var<workgroup> wg_q: array<vec4<f32>, READ_HEADS * TILE * DIM4>;

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return select(wg_q[row * DIM4 + i], vec4<f32>(0.0), i >= 2u * DIM_K4);
}

fn combine_row_splits(row: u32, split: u32, e: u32, sum: ptr<function, vec4<f32>>, weight: ptr<function, f32>) -> bool {
    return true;
}

fn load_q(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return max(f32(q[at + d]), 0.0);
}

// Loads tokens first .. first + TILE of this workgroup's query heads, with zeros from token `end` on.
fn load_queries(p: Place, first: u32, end: u32, invocation: u32) {
    let per_kv = params.heads / params.kv_heads;
    let b = p.kv / params.kv_heads;
    let g = p.kv % params.kv_heads;
    let start = first_place(p.kv);
    for (var i = invocation; i < READ_HEADS * TILE * DIM_K4; i += INVOCATIONS) {
        let row = i / DIM_K4;
        let r = p.head_split * READ_HEADS + row / TILE;
        let n = first + row % TILE;
        let d = (i % DIM_K4) * 4u;
        var values = vec4<f32>(0.0);
        var angle = vec2<f32>(0.0);
        if (n < end && r < per_kv) {
            let at = head_start(params.q, b, g * per_kv + r) + n * params.q.token;
            values = vec4<f32>(load_q(at, d), load_q(at, d + 1u), load_q(at, d + 2u), load_q(at, d + 3u));
            angle = angle_of(start, n);
        }
        wg_q[row * DIM4 + i % DIM_K4] = angle.x * values;
        wg_q[row * DIM4 + DIM_K4 + i % DIM_K4] = angle.y * values;
    }
}
