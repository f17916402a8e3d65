// The map for the square: the circular convolution of two count sketches. Every entry needs all rows of both, so the
// projections are stored behind the features, P of the first sketch and P of the second.
fn square_start(row: u32) -> u32 {
    return select(NO_ROW, square_row(row), row < 2u * own.poly);
}

fn keep_square(home: u32, i: u32, along: vec4<f32>, scale: f32) {
    put_features(home, SQUARES4 + E4 + i, along);
}

fn projection(home: u32, row: u32) -> f32 {
    count_load(1u);
    return features[(home * FEATURES4 + SQUARES4 + E4) * 2u + row / 2u][row % 2u];
}

fn convolved(home: u32, p: u32) -> f32 {
    if (p >= own.poly) {
        return 0.0;
    }
    var sum = 0.0;
    for (var j = 0u; j < own.poly; j++) {
        sum += projection(home, j) * projection(home, own.poly + (own.poly + p - j) % own.poly);
    }
    return sum;
}

fn finish_vectors(home: u32, count: u32, invocation: u32) {
    // Other invocations of the workgroup stored the projections.
    storageBarrier();
    for (var i = invocation; i < count * 2u * SQUARES4; i += INVOCATIONS) {
        let row = home + i / (2u * SQUARES4);
        let at = i % (2u * SQUARES4);
        let pair = vec2<f32>(convolved(row, entry_at(2u * at)), convolved(row, entry_at(2u * at + 1u)));
        count_store(2u);
        features[row * FEATURES4 * 2u + at] = pair;
    }
}
