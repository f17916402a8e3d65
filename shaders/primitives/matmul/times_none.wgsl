// Stands for times_wide.wgsl where there are no factors.
fn with_times(at: u32, elements: u32, values: vec4<f32>) -> vec4<f32> {
    return values;
}
