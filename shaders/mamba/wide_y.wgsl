// Stores of y by four tokens, where N and the length of segments are multiples of four.
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<vec4<Out>>; // B C N

// Adds the four tokens to what y holds, if this is the second of two runs, or replaces it.
fn store_y(row: u32, n: u32, values: vec4<f32>, stored: vec4<bool>) {
    if (stored.x) {
        let at = group_of(row * params.length - params.base, n);
        count_load(ADDED * 4u);
        count_store(4u);
        if (ADDED == 1u) {
            y[at] = vec4<Out>(vec4<f32>(y[at]) + turned(values));
        } else {
            y[at] = vec4<Out>(turned(values));
        }
    }
}
