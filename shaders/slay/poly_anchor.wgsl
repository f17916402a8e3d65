// The map for the square: squares of inner products with anchors.
const HAS_ANCHORS: bool = true;

fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    let x = project(i, vector, g);
    return x * x * params.poly_scale;
}
