// A tile loads what a dispatch before stored as the features of keys (features.wgsl).
//
// Prelude constants: FEATURES4, vec4s stored per vector; ROW4, vec4s that a workgroup loads of them. The operator defines
// stored_at(i), which of a vector's vec4s is loaded as number i.
@group(0) @binding(FEATURES_BINDING) var<storage, read> features: array<vec4<f32>>; // [keys, then queries][FEATURES4]

fn group_size(i: u32) -> u32 {
    return 4u;
}

fn in_group(i: u32) -> vec4<bool> {
    return vec4<bool>(true);
}

// The key head of a KV head among those whose features are stored.
fn stored_head(p: Place) -> u32 {
    return p.kv / params.share - params.first_unit;
}

fn load_key(p: Place, n: u32, i: u32) -> vec4<f32> {
    let row = stored_head(p) * (params.end - params.first) + n - params.first;
    return features[row * FEATURES4 + stored_at(i)];
}
