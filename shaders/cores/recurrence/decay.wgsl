// Decay factors e^g, so that rounding errors do not accumulate. Often g is 0 or barely negative, and the state is multiplied by
// thousands of factors: if each were rounded next to 1, all errors would point the same way.

// Whether factors e^g are that near 1. Below, few tokens are remembered, and errors of so few do not matter.
fn are_near_one(g: vec4<f32>) -> vec4<bool> {
    return (g <= vec4<f32>(0.0)) & (g > vec4<f32>(-0.125));
}

// e^g - 1 for such g.
fn changes_of(g: vec4<f32>) -> vec4<f32> {
    let few = 1.0 + g * 0.25 * (1.0 + g * 0.2 * (1.0 + g * 0.16666667));
    return g * (1.0 + g * 0.5 * (1.0 + g * 0.33333334 * few));
}

// Factors for token n of a segment. Near 1 they are rounded up for some tokens and down for others, by the fractional part of n
// times the golden ratio, so that the errors of many tokens cancel. The rounding is to multiples of 2^-24 by way of
// `floor`, which no compiler rearranges.
fn decay_factors(g: vec4<f32>, n: u32) -> vec4<f32> {
    let part = f32((n * 2654435769u) >> 8u) * 5.9604645e-8;
    let near = 1.0 + floor(changes_of(max(g, vec4<f32>(-0.125))) * 16777216.0 + part) * 5.9604645e-8;
    // Avoid infinities: compilers may assume that there are none.
    let far = select(exp(g), vec4<f32>(0.0), g < vec4<f32>(-87.0));
    return select(far, near, are_near_one(g));
}

fn decay_factor(g: f32, n: u32) -> f32 {
    return decay_factors(vec4<f32>(g), n).x;
}

// The factor for many tokens, whose log decays have this sum.
fn decay_over(sum: f32) -> f32 {
    // Avoid infinities: compilers may assume that there are none.
    return select(exp(sum), 0.0, sum < -87.0);
}

// A factor as scans and single tokens use it, where nothing cancels: near 1 it is e^g - 1, which is not positive; otherwise e^g
// itself, which is positive, or -1 (a factor of 0) if it underflows.
fn decay_of(g: f32) -> f32 {
    if (are_near_one(vec4<f32>(g)).x) {
        return changes_of(vec4<f32>(g)).x;
    }
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
