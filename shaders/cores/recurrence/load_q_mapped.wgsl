// Features of a tile of queries in workgroup memory, for elementwise feature maps.

// Features of the queries, [READ_HEADS][TILE][DIM4].
var<workgroup> wg_q: array<vec4<f32>, READ_HEADS * TILE * DIM4>;

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return wg_q[row * DIM4 + i];
}

fn query_feature_at(row: u32, d: u32) -> f32 {
    return wg_q[row * DIM4 + d / 4u][d % 4u];
}

// Past the head dimension a feature is anything finite: the rows of the state there are zero.
fn put_query(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    wg_q[i] = feature(x);
}
