// The map for the square: squared dot products with anchors.
fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    let x = project(i, vector, g);
    return x * x * own.poly_scale;
}
