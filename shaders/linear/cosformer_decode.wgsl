// cosformer, decode: max(x, 0) of each element, times the cosine and times the sine of the angle at the carried position.
// Prelude constant: MAX_DIM, an upper bound of the rows.
var<workgroup> wg_key: array<f32, MAX_DIM>;
var<workgroup> wg_query: array<f32, MAX_DIM>;
var<workgroup> wg_angle: vec2<f32>;

fn key_feature(d: u32) -> f32 {
    return wg_key[d];
}

fn query_feature(d: u32) -> f32 {
    return wg_query[d];
}

fn prepare_key(b: u32, g: u32, invocation: u32) {
    if (invocation == 0u) {
        let at = params.extra_state + 2u * (b * params.kv_heads + g);
        let low = bitcast<u32>(state[at]);
        let high = bitcast<u32>(state[at + 1u]);
        wg_angle = angle_of(within_turn(low, high), 0u);
        state[at] = bitcast<f32>(low + 1u);
        state[at + 1u] = bitcast<f32>(high + u32(low == 0xffffffffu));
    }
    workgroupBarrier();
    for (var d = invocation; d < params.dim_k; d += COLUMNS * LANES) {
        count_load(1u + FACTORS);
        let x = max(key_factor(b, key_head(g), 0u) * f32(k[head_start(params.k, b, key_head(g)) + d]), 0.0);
        wg_key[d] = wg_angle.x * x;
        wg_key[params.dim_k + d] = wg_angle.y * x;
    }
}

fn prepare_query(b: u32, g: u32, h: u32, invocation: u32) {
    for (var d = invocation; d < params.dim_k; d += COLUMNS * LANES) {
        count_load(1u + FACTORS);
        let x = max(query_factor(b, key_head(h), 0u) * f32(q[head_start(params.q, b, key_head(h)) + d]), 0.0);
        wg_query[d] = wg_angle.x * x;
        wg_query[params.dim_k + d] = wg_angle.y * x;
    }
    workgroupBarrier();
}
