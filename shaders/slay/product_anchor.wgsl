// The map for the square: squared dot products with anchors.
fn square_start(row: u32) -> u32 {
    let p = entry_at(row);
    return select(NO_ROW, square_row(p), p < own.poly);
}

fn keep_square(home: u32, i: u32, along: vec4<f32>, scale: f32) {
    put_features(home, i, along * along * own.poly_scale);
}
