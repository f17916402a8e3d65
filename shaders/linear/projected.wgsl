// Keys as features of all their elements: maps of their projections on omega.
//
// Consts of the prelude, beside those of the recurrences: DIM_K4, groups of four of D; READ_HEADS, 0 where no queries are
// read; GATE, the binding of the log decays, and GATED, whether there are any: omega comes behind. From the operator:
// finish_tile, which makes features of the vectors of a tile.
@group(0) @binding(GATE + GATED) var<storage, read> omega: array<f32>; // F D, or G F D

// Vectors of a tile: TILE keys, then TILE queries of each head.
const VECTORS: u32 = TILE * (1u + READ_HEADS);
var<workgroup> wg_x: array<vec4<f32>, VECTORS * DIM_K4>;  // as they are stored
var<workgroup> wg_phi: array<vec4<f32>, VECTORS * DIM4>; // as features

fn key_features(t: u32, i: u32) -> vec4<f32> {
    return wg_phi[t * DIM4 + i];
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

// Products of a vector with four rows of omega, from row 4 i on; those past the end are 0.
fn project(vector: u32, i: u32, g: u32) -> vec4<f32> {
    let start = g * params.omega;
    var sum = vec4<f32>(0.0);
    for (var d = 0u; d < (params.dim_k + 3u) / 4u; d++) {
        let x = wg_x[vector * DIM_K4 + d];
        sum.x += dot(omega_row(start, 4u * i, 4u * d), x);
        sum.y += dot(omega_row(start, 4u * i + 1u, 4u * d), x);
        sum.z += dot(omega_row(start, 4u * i + 2u, 4u * d), x);
        sum.w += dot(omega_row(start, 4u * i + 3u, 4u * d), x);
    }
    return sum;
}

fn load_k(at: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return f32(k[at + d]);
}

// Tokens first .. first + TILE of one key head, those from `end` on as zeros.
fn load_keys(p: Place, first: u32, end: u32, invocation: u32) {
    let k_head = head_start(params.k, p.kv / params.kv_heads, p.kv % params.kv_heads);
    for (var i = invocation; i < TILE * DIM_K4; i += INVOCATIONS) {
        let n = first + i / DIM_K4;
        let d = (i % DIM_K4) * 4u;
        var row = vec4<f32>(0.0);
        if (n < end) {
            let at = k_head + n * params.k.token;
            row = vec4<f32>(load_k(at, d), load_k(at, d + 1u), load_k(at, d + 2u), load_k(at, d + 3u));
        }
        wg_x[i] = row;
    }
    load_values(p, first, end, invocation);
}
