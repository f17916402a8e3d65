// Steps of time, and the decay that they make: dt through softplus, e^(dt a). Const of the prelude: STEPS, the first binding.
@group(0) @binding(STEPS) var<storage, read> dt: array<Elem>;          // B N H
@group(0) @binding(STEPS + 1u) var<storage, read> weights: array<f32>; // packed: a or a_log H; d H, dt_bias H where there are

override A_LOG: u32 = 0u;    // whether a is given by the logarithm of -a
override SOFTPLUS: u32 = 1u;
override BIASED: u32 = 0u;   // whether there is dt_bias

fn step_at(b: u32, h: u32, n: u32) -> f32 {
    count_load(1u);
    var step = f32(dt[head_start(params.g, b, h) + n * params.g.token]);
    if (BIASED == 1u) {
        count_load(1u);
        step += weights[params.bias + h];
    }
    if (SOFTPLUS == 1u) {
        step = softplus(step);
    }
    return step;
}

fn log_of(h: u32, step: f32) -> f32 {
    count_load(1u);
    let a = weights[h];
    return step * select(a, -exp(a), A_LOG == 1u);
}
