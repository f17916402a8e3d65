// The Yat kernel: the squared dot product of a query and a key, divided by their squared distance plus epsilon.
// Needs cores/attention/loads.wgsl.
override EUCLIDEAN: u32 = 0u; // 0: normalise queries and keys to unit length; 1: use them as given

// Below this share of the two squares, their difference is mostly rounding error.
const NEAR: f32 = 1.0 / 32.0;

fn length_of(square: f32) -> f32 {
    if (EUCLIDEAN != 0u) {
        return 1.0;
    }
    return max(sqrt(square), 1e-12);
}

// For vectors close to each other, compute the distance from the vectors themselves. Both are then nonzero, so rows and
// keys that only pad a tile are not read.
fn score_of(product: f32, q_square: f32, k_square: f32, q_at: u32, k_at: u32) -> f32 {
    let q_length = length_of(q_square);
    let k_length = length_of(k_square);
    let both = select(2.0, q_square + k_square, EUCLIDEAN != 0u);
    var inner = product / (q_length * k_length);
    var apart = both - 2.0 * inner;
    if (apart < NEAR * both) {
        apart = 0.0;
        // This path is rare, but compiled once for every pair an invocation holds: keep it short rather than fast.
        for (var d = 0u; d < params.dim_k; d++) {
            let step = load_q(q_at, d) / q_length - load_k(k_at, d) / k_length;
            apart += step * step;
        }
        inner = 0.5 * (both - apart);
    }
    return inner * inner / (apart + params.score);
}
