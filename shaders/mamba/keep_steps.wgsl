// Keeps steps for the second pass, which need not compute them again. Rows are padded to whole groups of four.
@group(0) @binding(KEPT_BINDING) var<storage, read_write> kept: array<vec4<f32>>; // B C N

fn keep_steps(row: u32, n: u32, steps: vec4<f32>, used: vec4<bool>) {
    if (used.x) {
        count_store(4u);
        kept[row * params.kept + n / 4u] = steps;
    }
}
