// No decay. Prelude constant: DECAY, 0.
fn load_decays(p: Place, first: u32, end: u32, invocation: u32) {}

fn load_decay(p: Place, first: u32, end: u32, invocation: u32) {}

fn decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}

fn log_decay(t: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(0.0);
}
