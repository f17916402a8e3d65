// The map for the square: the circular convolution of two count sketches. Every entry needs all rows of both.
fn square_feature(i: u32, vector: u32, g: u32) -> f32 {
    var sum = 0.0;
    for (var j = 0u; j < own.poly; j++) {
        sum += project(j, vector, g) * project(own.poly + (own.poly + i - j) % own.poly, vector, g);
    }
    return sum;
}
