// cosformer: cosine and sine of a quarter turn times n / max_len, which lets weights fade with distance. Angles are taken of
// whole numbers modulo four quarters, so that they are as exact far into a sequence as in its beginning, and by a polynomial,
// since devices need no more than three digits of a sine.

// sin(pi / 2 x) for x from 0 to 1.
fn quarter_sine(x: f32) -> f32 {
    let y = x * x;
    var p = 5.692172922e-8 * y - 3.598843235e-6;
    p = p * y + 1.604411848e-4;
    p = p * y - 4.681754135e-3;
    p = p * y + 7.969262625e-2;
    p = p * y - 6.459640975e-1;
    return x * (p * y + 1.570796327);
}

// Tokens in a whole turn.
fn turn_len() -> u32 {
    return 4u * params.max_len;
}

// A count of 64 bits modulo that.
fn within_turn(low: u32, high: u32) -> u32 {
    let turn = turn_len();
    var rest = high % turn;
    // From 2^32 on by doubling: nothing passes 32 bits, since a turn has 2^31 tokens at most.
    for (var i = 0u; i < select(32u, 0u, high == 0u); i++) {
        rest = (2u * rest) % turn;
    }
    return (rest + low % turn) % turn;
}

// Cosine and sine of a token which is so many behind one with this place within a turn.
fn angle_of(start: u32, n: u32) -> vec2<f32> {
    let place = (start + n % turn_len()) % turn_len();
    let rest = place % params.max_len;
    let c = quarter_sine(f32(params.max_len - rest) / f32(params.max_len));
    let s = quarter_sine(f32(rest) / f32(params.max_len));
    switch (place / params.max_len) {
        case 0u: { return vec2<f32>(c, s); }
        case 1u: { return vec2<f32>(-s, c); }
        case 2u: { return vec2<f32>(-c, -s); }
        default: { return vec2<f32>(s, -c); }
    }
}
