// Decode: features of a key and a query, functions of their projections onto omega. Prelude constants: MAX_DIM, an upper
// bound of the rows; DIM_K4, groups of four of D. A variant brings map_key and map_query, which turn projections
// into features.
@group(0) @binding(OMEGA_BINDING) var<storage, read> omega: array<f32>; // F D, or G F D

var<workgroup> wg_x: array<f32, 4u * DIM_K4>;
var<workgroup> wg_key: array<f32, MAX_DIM>;
var<workgroup> wg_query: array<f32, MAX_DIM>;

fn key_feature(d: u32) -> f32 {
    return wg_key[d];
}

fn query_feature(d: u32) -> f32 {
    return wg_query[d];
}

fn project(row: u32, g: u32) -> f32 {
    let start = g * own.omega + row * params.dim_k;
    var sum = 0.0;
    for (var d = 0u; d < params.dim_k; d++) {
        count_load(1u);
        sum += omega[start + d] * wg_x[d];
    }
    return sum;
}

fn prepare_key(b: u32, g: u32, invocation: u32) {
    for (var d = invocation; d < params.dim_k; d += COLUMNS * LANES) {
        count_load(1u + FACTORS);
        wg_x[d] = key_factor(b, key_head(g), 0u) * f32(k[head_start(params.k, b, key_head(g)) + d]);
    }
    workgroupBarrier();
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_key[row] = project(row, key_head(g));
    }
    map_key(b, g, invocation);
    workgroupBarrier();
}

fn prepare_query(b: u32, g: u32, h: u32, invocation: u32) {
    for (var d = invocation; d < params.dim_k; d += COLUMNS * LANES) {
        count_load(1u + FACTORS);
        wg_x[d] = query_factor(b, key_head(h), 0u) * f32(q[head_start(params.q, b, key_head(h)) + d]);
    }
    workgroupBarrier();
    for (var row = invocation; row < params.rows; row += COLUMNS * LANES) {
        wg_query[row] = project(row, key_head(g));
    }
    map_query(invocation);
    workgroupBarrier();
}
