// Feature map elu(x) + 1 (Katharopoulos et al., arXiv 2006.16236, equation 7), without a comparison. NaN stays NaN, even where
// the maximum of it and 0 is 0.
fn feature(x: vec4<f32>) -> vec4<f32> {
    let positive = max(x, vec4<f32>(0.0));
    return positive + exp(x - positive);
}
