// What the probes of a device have in common: how much each invocation does.
struct Params {
    grid: Grid,
    count: u32,  // vec4s to copy
    rounds: u32, // of a loop of arithmetic
    _pad: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;
