// Steps from the tensor dt: the bias, softplus, offset and limits. Needs wide_dt.wgsl or narrow_dt.wgsl, activations.wgsl.
override SOFTPLUS: u32 = 1u; // 1: apply softplus to steps
override BIASED: u32 = 0u;   // 1: there is a dt_bias
override LIMITED: u32 = 0u;  // 1: there are an offset and limits

fn load_steps(row: u32, n: u32) -> vec4<f32> {
    return load_dt(row, n);
}

fn bias_of(channel: u32, counted: bool) -> f32 {
    if (BIASED == 0u) {
        return 0.0;
    }
    count_load(u32(counted));
    return weights[params.dt_bias + channel];
}

fn steps_of(dt: vec4<f32>, bias: f32) -> vec4<f32> {
    var steps = dt + bias;
    if (SOFTPLUS == 1u) {
        steps = vec4<f32>(softplus(steps.x), softplus(steps.y), softplus(steps.z), softplus(steps.w));
    }
    if (LIMITED == 1u) {
        steps = clamp(steps + params.dt_offset, vec4<f32>(params.dt_min), vec4<f32>(params.dt_max));
    }
    return steps;
}
