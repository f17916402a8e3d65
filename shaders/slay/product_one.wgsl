// No map for the square: the single entry is 1, or 0 for a vector of zeros, which has no direction.
fn square_start(row: u32) -> u32 {
    return NO_ROW;
}

fn keep_square(home: u32, i: u32, along: vec4<f32>, scale: f32) {
    put_features(home, i, vec4<f32>(select(1.0, 0.0, scale == 0.0), 0.0, 0.0, 0.0));
}
