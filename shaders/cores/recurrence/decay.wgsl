// Decay factors e^g, stored so that rounding errors do not accumulate. Often g is 0 or barely negative, and the state is
// multiplied by thousands of factors: if each were rounded next to 1, all errors would point the same way. For g > -1/2 we
// store e^g - 1, which is not positive. Otherwise we store e^g itself, which is positive, or -1 (a factor of 0) if it
// underflows.
fn decay_of(g: f32) -> f32 {
    if (g <= 0.0 && g > -0.5) {
        let few = 1.0 + g * 0.2 * (1.0 + g * 0.16666667 * (1.0 + g * 0.14285715 * (1.0 + g * 0.125)));
        return g * (1.0 + g * 0.5 * (1.0 + g * 0.33333334 * (1.0 + g * 0.25 * few)));
    }
    // Avoid infinities: compilers may assume that there are none.
    return select(exp(g), -1.0, g < -87.0);
}

// Applies a stored decay factor to four numbers.
fn left_of(kept: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
    return kept * x + select(vec4<f32>(0.0), x, kept <= vec4<f32>(0.0));
}

// The running maximum of an empty state, below all others. A state that is stored relative to e^running_max has this
// logarithm: the running maximum of what was written to it.
const NOTHING: f32 = -1e30;

// New running maximum of a state that decays by the log decay g before something whose log features have the maximum
// `top` is written.
fn risen(running_max: f32, g: f32, top: f32) -> f32 {
    return max(max(running_max + g, NOTHING), top);
}

// Decay factor (as decay_of stores it) for a change of running maximum. `log` is at most 0, except for rounding errors.
fn running_max_decay(log: f32) -> f32 {
    return select(decay_of(log), 1.0 + log, log > 0.0);
}
