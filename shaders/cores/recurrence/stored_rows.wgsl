// Rows of features that a dispatch before stored (features.wgsl).
//
// Prelude constants: FEATURES4, vec4s stored per vector.
@group(0) @binding(FEATURES_BINDING) var<storage, read> features: array<vec4<f32>>; // [keys, then queries][FEATURES4]

fn group_loads(i: u32) -> u32 {
    return 4u;
}

fn in_group(i: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

// The key head of a KV head among those whose features are stored.
fn stored_head(p: Place) -> u32 {
    return p.kv / params.share - params.first_unit;
}

// First vec4 of the features of key n, and of the query n of head r.
fn key_features_at(p: Place, n: u32) -> u32 {
    return (stored_head(p) * (params.end - params.first) + n - params.first) * FEATURES4;
}

fn query_features_at(p: Place, r: u32, n: u32) -> u32 {
    let head = stored_head(p) * p.group + min(r, p.group - 1u);
    return (params.query_features + head * (params.end - params.first) + n - params.first) * FEATURES4;
}
