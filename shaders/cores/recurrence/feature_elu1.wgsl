// Feature map elu(x) + 1 (Katharopoulos et al., arXiv 2006.16236, equation 7), without a comparison.
fn feature(x: vec4<f32>) -> vec4<f32> {
    return max(x, vec4<f32>(0.0)) + exp(min(x, vec4<f32>(0.0)));
}
