// Borders of packed sequences lie behind the states of segments (lib/borders.wgsl).
@group(0) @binding(STATES_BINDING) var<storage, read_write> states: array<f32>; // [segments][C][S], then the borders

fn tokens() -> u32 {
    return params.length;
}

fn store_border(s: u32, border: u32) {
    states[params.stored * params.channels * params.states + s] = bitcast<f32>(border);
}
