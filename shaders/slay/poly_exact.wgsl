// The exact map for the square: products of components i <= j, j fastest, times sqrt 2 if i < j.
fn taken_row(i: u32) -> u32 {
    return NO_ROW;
}

fn component(vector: u32, d: u32) -> f32 {
    return wg_u[vector * DIM_K4 + d / 4u][d % 4u];
}

fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    var rest = own.first_poly + i;
    if (rest >= own.poly) {
        return 0.0;
    }
    var row = 0u;
    while (rest >= params.dim_k - row) {
        rest -= params.dim_k - row;
        row++;
    }
    let x = component(vector, row) * component(vector, row + rest);
    return select(1.4142135, 1.0, rest == 0u) * x;
}
