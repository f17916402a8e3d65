// Products of the spherical Yat kernel's features: the entries of A, the map for the square, then those of E, the random
// features of the exponential. A vector's stored row is SQUARES4 vec4s for A, then E4 for E.
//
// Prelude constants, in addition to those of cores/recurrence/features.wgsl: SQUARES4, vec4s stored for A; SQUARE_PRODUCTS4,
// groups of four rows of weights for it; PAL, entries of A per part of the rows, and PAL4, vec4s stored for these; E4,
// groups of four of R F; RANDOM, F; SQUARED, 1 if E includes the square of its projections. A map for the square brings
// square_start(row), the start of a row for A, and keep_square(home, i, along, scale), which gets projections 4 i .. 4 i +
// 3 of the unit vector.
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: weights of A, P D or 2 P D; then omega R G F D
@group(0) @binding(FEATURES_BINDING) var<storage, read_write> features: array<vec2<f32>>; // [keys, then queries][2 FEATURES4]

// Entry of A at place i of the stored row; P or more if there is none. Each part of the rows starts at a vec4.
fn entry_at(i: u32) -> u32 {
    let within = i % (4u * PAL4);
    return select(own.poly, i / (4u * PAL4) * PAL + within, within < PAL);
}

// Stores vec4 i of the row `home`.
fn put_features(home: u32, i: u32, values: vec4<f32>) {
    let at = (home * FEATURES4 + i) * 2u;
    count_store(4u);
    features[at] = values.xy;
    features[at + 1u] = values.zw;
}

// Rows that no weights are stored for: from UNIT on a unit vector, and none.
const UNIT: u32 = 0x80000000u;
const NO_ROW: u32 = 0xffffffffu;

// Row r of the weights of A.
fn square_row(r: u32) -> u32 {
    return r * params.dim_k;
}

fn weight_start(row: u32, g: u32) -> u32 {
    if (row < 4u * SQUARE_PRODUCTS4) {
        return square_start(row);
    }
    let rf = row - 4u * SQUARE_PRODUCTS4;
    let at = own.omega + ((rf / RANDOM * own.key_heads + g) * RANDOM + rf % RANDOM) * params.dim_k;
    return select(NO_ROW, at, rf < own.nodes * RANDOM);
}

fn weight(start: u32, d: u32) -> f32 {
    let there = start < UNIT && d < params.dim_k;
    count_load(select(0u, 1u, there));
    return select(select(0.0, 1.0, d == start - UNIT), weights[select(0u, start + d, there)], there);
}

// The factor that makes a vector a unit vector; 0 for a vector of zeros if a map asks for it.
fn of_vector(square: f32, largest: f32) -> f32 {
    return select(1.0 / max(sqrt(square), 1e-12), 0.0, LARGEST == 1u && largest == 0.0);
}

fn random_feature(rf: u32, x: f32) -> f32 {
    let node = own.node[min(rf / RANDOM, 31u)];
    let feature = node.z * select(1.0, x * x, SQUARED == 1u) * exp(node.x * x - node.y);
    return select(0.0, feature, rf < own.nodes * RANDOM);
}

fn keep_products(home: u32, v: u32, i: u32, products: vec4<f32>) {
    let scale = wg_of_vector[v];
    // A length that overflows has the factor 0.
    let along = select(products * scale, vec4<f32>(0.0), scale == 0.0);
    if (i < SQUARE_PRODUCTS4) {
        keep_square(home, i, along, scale);
        return;
    }
    let rf = 4u * (i - SQUARE_PRODUCTS4);
    put_features(home, SQUARES4 + i - SQUARE_PRODUCTS4, vec4<f32>(
        random_feature(rf, along.x), random_feature(rf + 1u, along.y),
        random_feature(rf + 2u, along.z), random_feature(rf + 3u, along.w),
    ));
}
