// cosformer: features of queries, as cosformer_keys.wgsl has them of keys.

// Features of the queries, [READ_HEADS][TILE][DIM4].
var<workgroup> wg_q: array<vec4<f32>, READ_HEADS * TILE * DIM4>;

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return select(wg_q[row * DIM4 + i], vec4<f32>(0.0), i >= 2u * DIM_K4);
}

fn query_feature_at(row: u32, d: u32) -> f32 {
    return select(wg_q[row * DIM4 + d / 4u][d % 4u], 0.0, d >= 8u * DIM_K4);
}

fn put_query(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    let values = select(vec4<f32>(0.0), max(x, vec4<f32>(0.0)), there);
    let angle = angle_of(start_place, n - start_token);
    let to = i / DIM_K4 * DIM4 + i % DIM_K4;
    wg_q[to] = angle.x * values;
    wg_q[to + DIM_K4] = angle.y * values;
}
