// Stands for residual_wide.wgsl where there is no residual.
fn with_residual(at: u32, elements: u32, values: vec4<f32>) -> vec4<f32> {
    return values;
}
