// Steps are not kept: there is no pass after this one, or it computes them again.
fn keep_steps(row: u32, n: u32, steps: vec4<f32>, used: vec4<bool>) {}
