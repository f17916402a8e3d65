// Stands for bias.wgsl where scores have no bias.
fn bias_row(b: u32, h: u32, n: u32) -> u32 {
    return 0u;
}

fn bias_at(at: u32) -> f32 {
    return 0.0;
}
