// A tile loads what a dispatch before stored as the features of keys (stored_rows.wgsl).
//
// Prelude constants: ROW4, vec4s of a vector that a workgroup loads. The operator defines stored_at(i), which of a vector's
// vec4s is loaded as number i, and keep(vector, i, x), which takes it into workgroup memory.

fn load_key(p: Place, n: u32, i: u32) -> vec4<f32> {
    return features[key_features_at(p, n) + stored_at(i)];
}

// Vectors of a tile: TILE keys, then TILE queries per head.
const VECTORS: u32 = TILE * (1u + READ_HEADS);

// From the last token on what is kept is zero, and so are features.
fn put_key(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    keep(i / ROW4, i % ROW4, select(vec4<f32>(0.0), x, there));
}
