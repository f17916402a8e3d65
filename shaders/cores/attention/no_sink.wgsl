// Stands for sink.wgsl where rows have no sink.
fn with_sink(h: u32, top: f32, sum: f32) -> vec3<f32> {
    return vec3<f32>(top, sum, 1.0);
}
