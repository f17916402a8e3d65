// Chunks of tokens without decay.
fn load_logs(p: Place, first: u32, end: u32, invocation: u32) {}

fn left_since_start(t: u32) -> f32 {
    return 1.0;
}

fn left_between(t: u32, s: u32) -> f32 {
    return 1.0;
}

fn log_since_start(t: u32) -> f32 {
    return 0.0;
}

fn log_of_token(t: u32) -> f32 {
    return 0.0;
}

fn scale_of(t: u32) -> f32 {
    return 1.0;
}
