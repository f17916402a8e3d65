// A tile loads what a dispatch before stored as the features of queries (stored_rows.wgsl).
fn load_query(p: Place, r: u32, n: u32, i: u32) -> vec4<f32> {
    return features[query_features_at(p, r, n) + stored_at(i)];
}

fn put_query(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    keep(TILE + i / ROW4, i % ROW4, x);
}

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return key_features(TILE + row, i);
}

fn query_feature_at(row: u32, d: u32) -> f32 {
    return key_feature_at(TILE + row, d);
}
