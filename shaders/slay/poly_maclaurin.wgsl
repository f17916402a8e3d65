// The map for the square: products of two random projections. The weights hold PAL rows of the first, then PAL of the second.
fn taken_row(i: u32) -> u32 {
    let p = own.first_poly + i % PAL;
    return select(NO_ROW, i / PAL * own.poly + p, p < own.poly);
}

fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    return project(i, vector, g) * project(PAL + i, vector, g) * own.poly_scale;
}
