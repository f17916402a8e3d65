// What is fixed for a recording of mamba. Twin of `Params` in src/ops/mamba/layout.rs; tests compare them.
struct Params {
    grid: Grid,
    length: u32,    // N
    channels: u32,  // C
    groups: u32,    // G
    states: u32,    // S
    tiles: u32,     // tiles of channels in a group
    segment: u32,   // tokens in a segment
    segments: u32,  // segments of this step
    stored: u32,    // segments whose states `states` holds: 1 where it is the state
    dt_bias: u32,   // where these start among the weights
    d: u32,
    base: u32,      // first element of the bindings of x, dt, z and y
    base_b: u32,    // and of b and c
}

@group(0) @binding(0) var<uniform> params: Params;

override A_LOG: u32 = 0u; // whether the weights start with the logarithm of -a

const LOG2_E: f32 = 1.4426950408889634;

// What a state is multiplied by for a step dt is 2^(rate dt): a in units of ln 2.
fn rate(a: f32) -> f32 {
    if (A_LOG == 1u) {
        return -LOG2_E * exponential(clamp(a, -87.0, 88.0));
    }
    return LOG2_E * a;
}
