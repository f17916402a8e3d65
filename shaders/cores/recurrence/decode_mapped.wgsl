// Decode with an elementwise feature map. Prelude constant: MAX_DIM, an upper bound of D.
var<workgroup> wg_key: array<f32, MAX_DIM>;
var<workgroup> wg_query: array<f32, MAX_DIM>;

fn key_feature(d: u32) -> f32 {
    return wg_key[d];
}

fn query_feature(d: u32) -> f32 {
    return wg_query[d];
}

fn prepare_key(b: u32, g: u32, invocation: u32) {
    for (var d = invocation; d < params.dim_k; d += COLUMNS * LANES) {
        wg_key[d] = feature(vec4<f32>(key_element(b, key_head(g), d))).x;
    }
}

fn prepare_query(b: u32, g: u32, h: u32, invocation: u32) {
    for (var d = invocation; d < params.dim_k; d += COLUMNS * LANES) {
        wg_query[d] = feature(vec4<f32>(query_element(b, key_head(h), d))).x;
    }
    workgroupBarrier();
}
