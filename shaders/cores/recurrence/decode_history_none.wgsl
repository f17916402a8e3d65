// Decode: a convolution of one tap, which needs no inputs before the token (decode_convolved.wgsl).
fn earlier(row: u32, w: u32) -> f32 {
    return 0.0;
}

fn keep(row: u32, inputs: array<f32, WIDTH>) {}

fn vectors_are_loaded(b: u32, g: u32, invocation: u32) {}

fn keep_vectors(b: u32, g: u32, invocation: u32) {}
