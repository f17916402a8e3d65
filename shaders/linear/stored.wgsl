// Keys and queries as features of the whole vector, which a dispatch before stored (product.wgsl).
//
// Prelude constants, in addition to those of the recurrences: MAPPED4, groups of four of F; READ_HEADS, 0 if no queries are
// read. A variant brings keep(vector, i, x), which takes what is loaded as number i into workgroup memory, and finish_tile,
// which completes the features of a tile.
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

fn key_feature_at(t: u32, d: u32) -> f32 {
    return key_features(t, d / 4u)[d % 4u];
}

fn state_row(i: u32) -> u32 {
    return i;
}
