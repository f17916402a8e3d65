// The rows of a workgroup's state: row i, in groups of four, is A[i / E4] times E[i % E4]
// (features.wgsl), so that products are not stored.
fn key_features(t: u32, i: u32) -> vec4<f32> {
    // Rows beyond the map's are padding: their entry of A is 0.
    let p = min(i / E4, PAL - 1u);
    let e = 4u * (t * E4 + i % E4);
    return select(wg_a[t * PAL + p], 0.0, i >= PAL * E4) * vec4<f32>(wg_e[e], wg_e[e + 1u], wg_e[e + 2u], wg_e[e + 3u]);
}

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return key_features(TILE + row, i);
}

fn key_feature_at(t: u32, d: u32) -> f32 {
    let p = min(d / (4u * E4), PAL - 1u);
    return select(wg_a[t * PAL + p], 0.0, d >= PAL * 4u * E4) * wg_e[t * 4u * E4 + d % (4u * E4)];
}

fn query_feature_at(row: u32, d: u32) -> f32 {
    return key_feature_at(TILE + row, d);
}

// The stored state has rows in the order (r, p, f).
fn state_row(i: u32) -> u32 {
    let p = own.first_poly + i / (4u * E4);
    let rf = i % (4u * E4);
    if (i >= PAL * 4u * E4 || p >= own.poly || rf >= own.nodes * own.features) {
        return params.rows;
    }
    return (rf / own.features * own.poly + p) * own.features + rf % own.features;
}
