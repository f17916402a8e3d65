// Score of a query and a key: their scaled dot product.
fn score_of(product: f32, q_square: f32, k_square: f32) -> f32 {
    return params.score * product;
}
