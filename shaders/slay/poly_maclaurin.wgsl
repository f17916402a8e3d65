// The map for the square: products of two random projections. The weights hold PAL rows of the first, then PAL of the second.
fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    return project(i, vector, g) * project(PAL + i, vector, g) * own.poly_scale;
}
