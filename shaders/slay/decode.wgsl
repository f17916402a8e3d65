// SLAY, decode: the features of one key and one query.
//
// Vector 0 is the key, vector 1 the query. Rows of the state are in the order (r, p, f).
fn feature_of(vector: u32, d: u32) -> f32 {
    let f = d % own.features;
    let p = d / own.features % own.poly;
    let rf = d / own.features / own.poly * own.features + f;
    return wg_a[vector * PAL + p] * wg_e[vector * 4u * E4 + rf];
}

fn key_feature(d: u32) -> f32 {
    return feature_of(0u, d);
}

fn query_feature(d: u32) -> f32 {
    return feature_of(1u, d);
}

fn prepare_key(b: u32, g: u32, invocation: u32) {
    let at = head_start(params.k, b, key_head(g));
    for (var i = invocation; i < DIM_K4; i += INVOCATIONS) {
        let d = 4u * i;
        count_load(four_of(d, params.dim_k));
        wg_u[i] = select(vec4<f32>(0.0), load_k(at, d), within(d, params.dim_k));
    }
    make_features(0u, key_head(g), invocation);
}

fn prepare_query(b: u32, g: u32, h: u32, invocation: u32) {
    let at = head_start(params.q, b, key_head(h));
    for (var i = invocation; i < DIM_K4; i += INVOCATIONS) {
        let d = 4u * i;
        count_load(four_of(d, params.dim_k));
        wg_u[DIM_K4 + i] = select(vec4<f32>(0.0), load_q(at, d), within(d, params.dim_k));
    }
    make_features(1u, key_head(g), invocation);
}
