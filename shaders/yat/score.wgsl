// The Yat kernel: the squared dot product of a query and a key, divided by their squared distance plus epsilon.
override EUCLIDEAN: u32 = 0u; // 0: normalise queries and keys to unit length; 1: use them as given

// Below this share of the two squares, their difference is mostly rounding error. The distance is then computed from the
// vectors themselves.
const NEAR: f32 = 1.0 / 32.0;
const REVISED: bool = true;
// In place of a score for which that is still to be done. Scores are at least zero.
const ROUGH: f32 = -1.0;

fn length_of(square: f32) -> f32 {
    if (EUCLIDEAN != 0u) {
        return 1.0;
    }
    return max(sqrt(square), 1e-12);
}

fn yat(inner: f32, apart: f32) -> f32 {
    let score = inner * inner / (apart + params.score);
    return select(score, score * LOG2_E, EXPONENTIAL != 0u);
}

fn score_of(product: f32, q_square: f32, k_square: f32) -> f32 {
    let both = select(2.0, q_square + k_square, EUCLIDEAN != 0u);
    let inner = product / (length_of(q_square) * length_of(k_square));
    let apart = both - 2.0 * inner;
    return select(yat(inner, apart), ROUGH, apart < NEAR * both);
}

fn is_rough(score: f32) -> bool {
    return score < 0.0;
}

fn exact_score(row: u32, key: u32) -> f32 {
    let q_at = q_start(row);
    let k_at = k_start(key);
    var squares = vec2<f32>(0.0);
    for (var d = 0u; d < params.dim_k; d += 4u) {
        let there = within(d, params.dim_k);
        let query = select(vec4<f32>(0.0), load_q(q_at, d), there);
        let own_key = select(vec4<f32>(0.0), load_k(k_at, d), there);
        squares += vec2<f32>(dot(query, query), dot(own_key, own_key));
    }
    let q_length = length_of(squares.x);
    let k_length = length_of(squares.y);
    var apart = 0.0;
    for (var d = 0u; d < params.dim_k; d += 4u) {
        let step = load_q(q_at, d) / q_length - load_k(k_at, d) / k_length;
        let own = select(vec4<f32>(0.0), step, within(d, params.dim_k));
        count_load(2u * four_of(d, params.dim_k));
        apart += dot(own, own);
    }
    let both = select(2.0, squares.x + squares.y, EUCLIDEAN != 0u);
    return yat(0.5 * (both - apart), apart);
}
