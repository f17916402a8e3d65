// Feature map elu(x) + 1 (Katharopoulos et al., arXiv 2006.16236, equation 7).
fn feature(x: f32) -> f32 {
    return select(exp(x), x + 1.0, x > 0.0);
}
