// ssd, decode: the step and the decay of the token, its values, and the epilogue.
var<workgroup> wg_step: f32;
var<workgroup> wg_decay: f32;

fn prepare_decay(b: u32, g: u32, invocation: u32) {
    if (invocation == 0u) {
        let step = step_at(b, g, token);
        wg_step = step;
        wg_decay = decay_of(log_of(g, step));
    }
}

fn decay_row(d: u32) -> f32 {
    return wg_decay;
}

fn value_of(b: u32, g: u32, e: u32) -> f32 {
    return wg_step * value_element(b, g, e);
}

fn epilogue_one(b: u32, h: u32, e: u32, value: f32) -> f32 {
    var x = 0.0;
    if (SKIPPED == 1u) {
        x = value_element(b, h, e);
    }
    return gated(head_start(params.o, b, h) + token * params.o.token + e, skipped(h, e, x, value));
}
