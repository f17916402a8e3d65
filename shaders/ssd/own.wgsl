// Where the weights of a head are, and the limits of its steps. Same layout as `Own` in src/ops/ssd/layout.rs; a test
// compares them.
struct Own {
    skip: u32, // start of d in the weights
    bias: u32, // start of dt_bias
    channels: u32, // elements of d from one channel to the next: 1, or 0 if a head has one
    taps: u32, // start of the weight of the convolution that decoding a token may begin with
    dt_offset: f32, // added after softplus; then the step is clamped
    dt_min: f32,
    dt_max: f32,
    taps_bias: u32, // start of its bias
}

@group(0) @binding(1) var<uniform> own: Own;
