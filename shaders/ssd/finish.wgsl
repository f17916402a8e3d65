// Epilogue of an output: adds d x, then applies the gate z.
override SKIPPED: u32 = 0u; // 1: there is a d
override GATED: u32 = 0u;   // 1: there is a z

fn skipped(h: u32, e: u32, x: f32, y: f32) -> f32 {
    if (SKIPPED == 0u) {
        return y;
    }
    count_load(1u);
    return y + weights[own.skip + h * select(1u, params.dim_v, own.channels == 1u) + e * own.channels] * x;
}

fn gated(at: u32, y: f32) -> f32 {
    if (GATED == 0u) {
        return y;
    }
    return y * silu(gate_at(at));
}
