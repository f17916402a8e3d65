// cosformer: cosine and sine of (pi / 2) n / max_len, so that weights fade with distance. Positions are reduced modulo a full
// turn as integers, so angles are equally accurate at any position. Sines are a polynomial, because a device's own `sin` may
// have only three correct digits.

// sin(pi / 2 x) for 0 <= x <= 1.
fn quarter_sine(x: f32) -> f32 {
    let y = x * x;
    var p = 5.692172922e-8 * y - 3.598843235e-6;
    p = p * y + 1.604411848e-4;
    p = p * y - 4.681754135e-3;
    p = p * y + 7.969262625e-2;
    p = p * y - 6.459640975e-1;
    return x * (p * y + 1.570796327);
}

// Tokens per full turn.
fn turn_len() -> u32 {
    return 4u * own.max_len;
}

// A 64-bit count modulo turn_len().
fn within_turn(low: u32, high: u32) -> u32 {
    let turn = turn_len();
    var rest = high % turn;
    // Multiply `high` by 2^32 by doubling. Nothing overflows, because a turn has at most 2^31 tokens.
    for (var i = 0u; i < select(32u, 0u, high == 0u); i++) {
        rest = (2u * rest) % turn;
    }
    return (rest + low % turn) % turn;
}

// Cosine and sine for the token n positions after one at `start` (modulo a turn).
fn angle_of(start: u32, n: u32) -> vec2<f32> {
    let place = (start + n % turn_len()) % turn_len();
    let rest = place % own.max_len;
    let c = quarter_sine(f32(own.max_len - rest) / f32(own.max_len));
    let s = quarter_sine(f32(rest) / f32(own.max_len));
    switch (place / own.max_len) {
        case 0u: { return vec2<f32>(c, s); }
        case 1u: { return vec2<f32>(-s, c); }
        case 2u: { return vec2<f32>(-c, -s); }
        default: { return vec2<f32>(s, -c); }
    }
}
