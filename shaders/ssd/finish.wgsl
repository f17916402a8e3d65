// What becomes of an output: d x is added, then z gates it.
override SKIPPED: u32 = 0u; // whether there is d
override GATED: u32 = 0u;   // whether there is z

fn skipped(h: u32, x: f32, y: f32) -> f32 {
    if (SKIPPED == 0u) {
        return y;
    }
    count_load(1u);
    return y + weights[params.skip + h] * x;
}

fn gated(at: u32, y: f32) -> f32 {
    if (GATED == 0u) {
        return y;
    }
    return y * silu(gate_at(at));
}
