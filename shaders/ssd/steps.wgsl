// Time steps dt, through softplus, and their decay e^(dt a).
@group(0) @binding(DT_BINDING) var<storage, read> dt: array<Elem>; // B N H
@group(0) @binding(WEIGHTS_BINDING) var<storage, read> weights: array<f32>; // packed: a or a_log H; then d H and dt_bias H if given

override A_LOG: u32 = 0u;    // 1: the weights start with log(-a)
override SOFTPLUS: u32 = 1u;
override BIASED: u32 = 0u;   // 1: there is a dt_bias
override LIMITED: u32 = 0u;  // 1: an offset and limits of the step

fn step_at(b: u32, h: u32, n: u32) -> f32 {
    count_load(1u);
    var step = f32(dt[head_start(params.g, b, h) + n * params.g.token]);
    if (BIASED == 1u) {
        count_load(1u);
        step += weights[own.bias + h];
    }
    if (SOFTPLUS == 1u) {
        step = softplus(step);
    }
    if (LIMITED == 1u) {
        step = clamp(step + own.dt_offset, own.dt_min, own.dt_max);
    }
    return step;
}

fn log_of(h: u32, step: f32) -> f32 {
    count_load(1u);
    let a = weights[h];
    // Kept finite: infinity times a step of 0 would be NaN.
    return step * select(a, -exp(min(a, 88.0)), A_LOG == 1u);
}
