// Parameters that the probes share: how much work each invocation does.
struct Params {
    grid: Grid,
    count: u32,  // vec4s to copy
    rounds: u32, // rounds of the arithmetic loop
    _pad: vec2<u32>,
}

@group(0) @binding(0) var<uniform> params: Params;
