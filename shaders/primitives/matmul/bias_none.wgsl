// Stands for bias.wgsl where there is no bias.
fn load_bias(row: u32, elements: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
