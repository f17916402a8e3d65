// Keys and queries as features of the whole vector, which a dispatch before stored (product.wgsl). Outputs are complete in one
// dispatch.
//
// Prelude constants, in addition to those of the recurrences: MAPPED4, groups of four of F; READ_HEADS, 0 if no queries are read.
// A variant brings keep(vector, i, x), which takes what is loaded as number i into workgroup memory, and finish_tile, which completes the features of a tile.

// Vectors of a tile: TILE keys, then TILE queries per head.
const VECTORS: u32 = TILE * (1u + READ_HEADS);
var<workgroup> wg_phi: array<vec4<f32>, VECTORS * MAPPED4>;

fn stored_at(i: u32) -> u32 {
    return i;
}

fn key_features(t: u32, i: u32) -> vec4<f32> {
    if (DIM4 > MAPPED4) {
        return select(wg_phi[t * MAPPED4 + min(i, MAPPED4 - 1u)], vec4<f32>(0.0), i >= MAPPED4);
    }
    return wg_phi[t * MAPPED4 + i];
}

// From the last token on what is kept is zero, and so are features.
fn put_key(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    keep(i / ROW4, i % ROW4, select(vec4<f32>(0.0), x, there));
}

fn put_query(n: u32, i: u32, x: vec4<f32>, there: vec4<bool>) {
    keep(TILE + i / ROW4, i % ROW4, x);
}

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return key_features(TILE + row, i);
}

fn key_feature_at(t: u32, d: u32) -> f32 {
    return key_features(t, d / 4u)[d % 4u];
}

fn query_feature_at(row: u32, d: u32) -> f32 {
    return key_feature_at(TILE + row, d);
}

fn combine_row_splits(row: u32, split: u32, e: u32, sum: ptr<function, vec4<f32>>, weight: ptr<function, f32>) -> bool {
    return true;
}

fn state_row(i: u32) -> u32 {
    return i;
}
