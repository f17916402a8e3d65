// The map for the square: the circular convolution of two count sketches. Every entry needs all rows of both.
fn taken_row(i: u32) -> u32 {
    return i;
}

fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    let p = params.first_poly + i;
    if (p >= params.poly) {
        return 0.0;
    }
    var sum = 0.0;
    for (var j = 0u; j < params.poly; j++) {
        sum += project(j, vector, g) * project(params.poly + (params.poly + p - j) % params.poly, vector, g);
    }
    return sum;
}
