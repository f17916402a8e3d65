// Products of performer's maps: projections onto omega.
//
// Prelude constants, in addition to those of cores/recurrence/features.wgsl: RANDOM, F.
@group(0) @binding(OMEGA_BINDING) var<storage, read> omega: array<f32>; // F D, or G F D
@group(0) @binding(FEATURES_BINDING) var<storage, read_write> features: array<vec4<f32>>; // [keys, then queries][FEATURES4]

const NO_ROW: u32 = 0xffffffffu;

fn weight_start(row: u32, g: u32) -> u32 {
    return select(NO_ROW, g * own.omega + row * params.dim_k, row < RANDOM);
}

fn weight(start: u32, d: u32) -> f32 {
    let there = start != NO_ROW && d < params.dim_k;
    count_load(select(0u, 1u, there));
    return select(0.0, omega[select(0u, start + d, there)], there);
}
