// A tile loads what a dispatch before stored as the features of keys (features.wgsl).
//
// Prelude constants: FEATURES4, vec4s stored per vector; ROW4, vec4s that a workgroup loads of them. The operator defines
// stored_at(i), which of a vector's vec4s is loaded as number i, and keep(vector, i, x), which takes it into workgroup memory.
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

fn load_key(p: Place, n: u32, i: u32) -> vec4<f32> {
    let row = stored_head(p) * (params.end - params.first) + n - params.first;
    return features[row * FEATURES4 + stored_at(i)];
}

// Vectors of a tile: TILE keys, then TILE queries per head.
const VECTORS: u32 = TILE * (1u + READ_HEADS);

// From the last token on what is kept is zero, and so are features.
fn put_key(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    keep(i / ROW4, i % ROW4, select(vec4<f32>(0.0), x, there));
}
