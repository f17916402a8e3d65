// Outputs as they are or divided by their weights, and a state of one's own to start from.
fn carried(at: u32) -> f32 {
    return state[at];
}

// Zero where there is no weight at all.
fn quotient(row: u32, sum: vec4<f32>, weight: f32) -> vec4<f32> {
    if (NORMALIZE == 0u) {
        return sum;
    }
    let divisor = weight + params.norm_eps;
    return select(sum / divisor, vec4<f32>(0.0), divisor == 0.0);
}

fn finished(p: Place, n: u32, t: u32, i: u32, sum: vec4<f32>) -> vec4<f32> {
    return sum;
}
