// Steps as pass 1 computed and kept them, in the order of the run.
@group(0) @binding(KEPT_BINDING) var<storage, read> kept: array<vec4<f32>>; // B C N

fn load_steps(row: u32, n: u32) -> vec4<f32> {
    return kept[row * params.kept + min(n / 4u, params.kept - 1u)];
}

fn bias_of(channel: u32, counted: bool) -> f32 {
    return 0.0;
}

fn steps_of(steps: vec4<f32>, bias: f32) -> vec4<f32> {
    return steps;
}
