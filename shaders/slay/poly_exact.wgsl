// The exact map for the square: products of components i <= j, j fastest, times sqrt 2 if i < j.
fn component(vector: u32, d: u32) -> f32 {
    return wg_u[vector * DIM_K4 + d / 4u][d % 4u];
}

fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    let pair = components_of(i);
    let x = component(vector, pair.x) * component(vector, pair.y);
    return select(1.4142135, 1.0, pair.x == pair.y) * x;
}
