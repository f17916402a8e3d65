// Decode without decay.
fn prepare_decay(b: u32, g: u32, invocation: u32) {}

fn decay_row(d: u32) -> f32 {
    return 0.0;
}
