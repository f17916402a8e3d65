// Keys and queries as features of the whole vector: functions of its projections onto omega. Outputs are complete in one
// dispatch.
//
// Prelude constants, in addition to those of the recurrences: DIM_K4, groups of four of D; READ_HEADS, 0 if no queries are
// read. A variant brings finish_tile, which computes the features of the vectors of a tile.
@group(0) @binding(OMEGA_BINDING) var<storage, read> omega: array<f32>; // F D, or G F D

// Vectors of a tile: TILE keys, then TILE queries per head.
const VECTORS: u32 = TILE * (1u + READ_HEADS);
var<workgroup> wg_u: array<vec4<f32>, VECTORS * DIM_K4>;  // as stored
var<workgroup> wg_phi: array<vec4<f32>, VECTORS * DIM4>; // as features

fn key_features(t: u32, i: u32) -> vec4<f32> {
    return wg_phi[t * DIM4 + i];
}

fn query_features(row: u32, i: u32) -> vec4<f32> {
    return key_features(TILE + row, i);
}

fn key_feature_at(t: u32, d: u32) -> f32 {
    return wg_phi[t * DIM4 + d / 4u][d % 4u];
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

fn omega_row(start: u32, row: u32, d: u32) -> vec4<f32> {
    var w = vec4<f32>(0.0);
    if (row >= params.rows) {
        return w;
    }
    for (var c = 0u; c < min(4u, params.dim_k - d); c++) {
        count_load(1u);
        w[c] = omega[start + row * params.dim_k + d + c];
    }
    return w;
}

// Dot products of a vector with four rows of omega, from row 4 i on; 0 for rows past the end.
fn project(vector: u32, i: u32, g: u32) -> vec4<f32> {
    let start = g * own.omega;
    var sum = vec4<f32>(0.0);
    for (var d = 0u; d < (params.dim_k + 3u) / 4u; d++) {
        let x = wg_u[vector * DIM_K4 + d];
        sum.x += dot(omega_row(start, 4u * i, 4u * d), x);
        sum.y += dot(omega_row(start, 4u * i + 1u, 4u * d), x);
        sum.z += dot(omega_row(start, 4u * i + 2u, 4u * d), x);
        sum.w += dot(omega_row(start, 4u * i + 3u, 4u * d), x);
    }
    return sum;
}
