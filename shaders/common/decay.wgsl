// Factors e^g of a decay, where g is 0 or hardly less as often as not, and the state is multiplied by thousands of them: each
// rounded to a number next to 1, they would all be wrong by the same. So down to g = -1/2 what is kept is e^g - 1, which is
// not positive, and beyond that, where a state does not live long, e^g itself, which is; of nothing left -1.
fn decay_of(g: f32) -> f32 {
    if (g <= 0.0 && g > -0.5) {
        let few = 1.0 + g * 0.2 * (1.0 + g * 0.16666667 * (1.0 + g * 0.14285715 * (1.0 + g * 0.125)));
        return g * (1.0 + g * 0.5 * (1.0 + g * 0.33333334 * (1.0 + g * 0.25 * few)));
    }
    // No compiler is trusted with infinities.
    return select(exp(g), -1.0, g < -87.0);
}

// What is left of four numbers.
fn left_of(kept: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return kept * x + select(vec4<f32>(0.0), x, kept <= vec4<f32>(0.0));
}

// A level below all others, of a state that holds nothing yet. A level is a logarithm of what a state is kept relative to.
const NOTHING: f32 = -1e30;

// The level of a state which falls by a log decay g, or of what is written where that is higher.
fn risen(level: f32, g: f32, top: f32) -> f32 {
    return max(max(level + g, NOTHING), top);
}

// Factor of a state, as decay_of has it, for what a level did not fall or has risen; above 0 that is what its rounding left.
fn level_decay(log: f32) -> f32 {
    return select(decay_of(log), 1.0 + log, log > 0.0);
}
