// Taps of the convolution that decoding a token begins with: they follow the other weights
// (cores/recurrence/decode_convolved.wgsl).
fn tap(channel: u32, w: u32) -> f32 {
    return weights[own.taps + channel * WIDTH + w];
}

fn tap_bias(channel: u32) -> f32 {
    return weights[own.taps_bias + channel];
}
