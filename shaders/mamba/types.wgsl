// Parameters of one recording of mamba. Same layout as `Params` in src/ops/mamba/layout.rs; a test compares them.
struct Params {
    grid: Grid,
    length: u32,    // N
    channels: u32,  // C
    groups: u32,    // G
    states: u32,    // S
    tiles: u32,     // tiles of channels per group
    segment: u32,   // tokens per segment
    segments: u32,  // segments of a batch entry, or of all packed sequences together at most
    stored: u32,    // segments of a batch entry in `states`; 1 if it is the carried state
    dt_bias: u32,   // start of dt_bias (and below, of d and of constant b and c) in the weights
    d: u32,
    b: u32,
    c: u32,
    base: u32,      // first element of the bindings of x, dt, z and y
    base_b: u32,    // first element of the bindings of b and c
    sequences: u32, // packed sequences; 0 if there are none
    kept: u32,      // kept steps per channel, in groups of four
    dt_offset: f32, // added to steps
    dt_min: f32,    // limits of steps after that
    dt_max: f32,
    raise: f32,     // constants of lib/decays_software.wgsl
    lower: f32,
    pad: u32,
    pads: vec2<u32>,
}

// A segment: its first token and the one after its last.
struct Segment {
    first: u32,
    end: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

override A_LOG: u32 = 0u; // 1: the weights start with log(-a)

const LOG2_E: f32 = 1.4426950408889634;

// A step dt multiplies a state by 2^(rate dt); the rate is a in units of ln 2.
fn rate(a: f32) -> f32 {
    if (A_LOG == 1u) {
        return -LOG2_E * exponential(clamp(a, -87.0, 88.0));
    }
    // Kept finite: infinity times a step of 0 would be NaN.
    return LOG2_E * max(a, -2e38);
}
