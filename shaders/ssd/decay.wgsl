// The decay of a tile of tokens, from their steps.
var<workgroup> wg_step: array<f32, TILE>;
var<workgroup> wg_log: array<f32, TILE>;
var<workgroup> wg_decay: array<f32, TILE>;

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {
    let h = p.g;
    for (var i = invocation; i < TILE; i += INVOCATIONS) {
        var step = 0.0;
        var log = 0.0;
        if (first + i < end) {
            step = step_at(p.b, h, first + i);
            log = log_of(h, step);
        }
        wg_step[i] = step;
        wg_log[i] = log;
        wg_decay[i] = decay_of(log);
    }
}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_decay[t]);
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(wg_log[t]);
}

fn value_scale(t: u32) -> f32 {
    return wg_step[t];
}
