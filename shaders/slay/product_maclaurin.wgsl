// The map for the square: products of two random projections, which follow each other among the rows of a group.
fn square_start(row: u32) -> u32 {
    let p = entry_at(row / 2u);
    return select(NO_ROW, square_row(row % 2u * own.poly + p), p < own.poly);
}

fn keep_square(home: u32, i: u32, along: vec4<f32>, scale: f32) {
    count_store(2u);
    features[home * FEATURES4 * 2u + i] = along.xz * along.yw * own.poly_scale;
}
