// Decay factors e^g, so that rounding errors do not accumulate. Often g is 0 or barely negative, and the state is multiplied by
// thousands of factors: if each were rounded next to 1, all errors would point the same way.

// Whether a factor e^g is that near 1.
fn is_near_one(g: f32) -> bool {
    return g <= 0.0 && g > -0.5;
}

// e^g - 1 for such g.
fn change_of(g: f32) -> f32 {
    let few = 1.0 + g * 0.2 * (1.0 + g * 0.16666667 * (1.0 + g * 0.14285715 * (1.0 + g * 0.125)));
    return g * (1.0 + g * 0.5 * (1.0 + g * 0.33333334 * (1.0 + g * 0.25 * few)));
}

// The factor for token n of a segment. Near 1 it is rounded up for some tokens and down for others, by the fractional part of n
// times the golden ratio, so that the errors of many tokens cancel. The rounding is to multiples of 2^-24, by way of whole
// numbers, which no compiler rearranges.
fn decay_factor(g: f32, n: u32) -> f32 {
    if (is_near_one(g)) {
        let part = f32((n * 2654435769u) >> 8u) * 5.9604645e-8;
        return 1.0 + f32(i32(floor(change_of(g) * 16777216.0 + part))) * 5.9604645e-8;
    }
    // Avoid infinities: compilers may assume that there are none.
    return select(exp(g), 0.0, g < -87.0);
}

// A factor as scans and single tokens use it, where nothing cancels: for g > -1/2 e^g - 1, which is not positive; otherwise e^g
// itself, which is positive, or -1 (a factor of 0) if it underflows.
fn decay_of(g: f32) -> f32 {
    if (is_near_one(g)) {
        return change_of(g);
    }
    // Avoid infinities: compilers may assume that there are none.
    return select(exp(g), -1.0, g < -87.0);
}

// Applies a factor as decay_of gives it to four numbers.
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
