// The exact map for the square: the unit vector is stored, and the walk multiplies its components (stored_exact.wgsl).
fn square_start(row: u32) -> u32 {
    return UNIT + row;
}

fn keep_square(home: u32, i: u32, along: vec4<f32>, scale: f32) {
    put_features(home, i, along);
}
