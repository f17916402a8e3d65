// Decode: features of the spherical Yat kernel. A feature is the product of an entry of A, the map for the square, and an entry
// of E, the random features of the exponential.
//
// Prelude constants, in addition to those of the recurrences: DIM_K4, groups of four of D; PAL, entries of A; TAKEN, rows of
// weights needed for them; E4, groups of four of R F; SQUARED, 1 if E includes the square of its projections.

@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: weights of A, P D or 2 P D; then omega R G F D

// A key and a query.
const VECTORS: u32 = 2u;
var<workgroup> wg_u: array<vec4<f32>, VECTORS * DIM_K4>; // as stored, then normalised to unit length
var<workgroup> wg_a: array<f32, VECTORS * PAL>;
// Scalars, because each feature is computed by its own invocation: writes to parts of one vec4 would race.
var<workgroup> wg_e: array<f32, VECTORS * 4u * E4>;

// First element of a row of the weights.
fn weight_start(row: u32, g: u32) -> u32 {
    if (row < TAKEN) {
        return row * params.dim_k;
    }
    let rf = row - TAKEN;
    let r = rf / own.features;
    return own.omega + ((r * own.key_heads + g) * own.features + rf % own.features) * params.dim_k;
}

fn fetch_weight(start: u32, d: u32) -> f32 {
    if (d >= params.dim_k) {
        return 0.0;
    }
    count_load(1u);
    return weights[start + d];
}

fn fetch_weights(row: u32, g: u32, d4: u32) -> vec4<f32> {
    let start = weight_start(row, g);
    let d = 4u * d4;
    return vec4<f32>(
        fetch_weight(start, d), fetch_weight(start, d + 1u), fetch_weight(start, d + 2u), fetch_weight(start, d + 3u),
    );
}

// Dot product of a row of the weights and a vector.
fn project(row: u32, vector: u32, g: u32) -> f32 {
    var sum = 0.0;
    // The loop bound is dynamic on purpose: unrolled, these loops would make up most of the code.
    for (var d = 0u; d < (params.dim_k + 3u) / 4u; d++) {
        sum += dot(fetch_weights(row, g, d), wg_u[vector * DIM_K4 + d]);
    }
    return sum;
}

fn exponential(rf: u32, vector: u32, g: u32) -> f32 {
    let node = own.node[rf / own.features];
    let x = project(TAKEN + rf, vector, g);
    return node.z * select(1.0, x * x, SQUARED == 1u) * exp(node.x * x - node.y);
}

// Computes A and E of a vector, which is in wg_u as stored. Starts and ends with a barrier.
fn make_features(vector: u32, g: u32, invocation: u32) {
    workgroupBarrier();
    if (invocation == 0u) {
        let first = vector * DIM_K4;
        var square = 0.0;
        for (var d = 0u; d < (params.dim_k + 3u) / 4u; d++) {
            square += dot(wg_u[first + d], wg_u[first + d]);
        }
        let scale = 1.0 / max(sqrt(square), 1e-12);
        for (var d = 0u; d < (params.dim_k + 3u) / 4u; d++) {
            wg_u[first + d] *= scale;
        }
    }
    workgroupBarrier();
    for (var rf = invocation; rf < 4u * E4; rf += INVOCATIONS) {
        var feature = 0.0;
        if (rf < own.nodes * own.features) {
            feature = exponential(rf, vector, g);
        }
        wg_e[vector * 4u * E4 + rf] = feature;
    }
    for (var i = invocation; i < PAL; i += INVOCATIONS) {
        wg_a[vector * PAL + i] = square_feature(i, vector, g);
    }
    workgroupBarrier();
}
