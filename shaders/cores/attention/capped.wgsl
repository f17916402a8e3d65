// Score of a query and a key: their scaled dot product, held between -cap and cap by a tanh, in units of log 2. `params.score`
// is the scale divided by the cap. Needs lib/exponential.wgsl and lib/tanh.wgsl.
fn score_of(product: f32, q_square: f32, k_square: f32) -> f32 {
    return params.cap * LOG2_E * hyperbolic_tangent(params.score * product);
}
