// A tile loads what a dispatch before stored as the features of queries (stored_keys.wgsl).
fn load_query(p: Place, r: u32, n: u32, i: u32) -> vec4<f32> {
    let head = stored_head(p) * p.group + min(r, p.group - 1u);
    let row = params.query_features + head * (params.end - params.first) + n - params.first;
    return features[row * FEATURES4 + stored_at(i)];
}
