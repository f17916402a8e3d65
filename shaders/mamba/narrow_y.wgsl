// Stores of y by single tokens, for any N and any segments.
@group(0) @binding(Y_BINDING) var<storage, read_write> y: array<Out>; // B C N

// Adds the four tokens to what y holds, if this is the second of two runs, or replaces it.
fn store_y(row: u32, n: u32, values: vec4<f32>, stored: vec4<bool>) {
    let at = elements_of(row * params.length - params.base, n);
    for (var i = 0u; i < 4u; i++) {
        if (stored[i]) {
            count_load(ADDED);
            count_store(1u);
            if (ADDED == 1u) {
                y[at[i]] = Out(f32(y[at[i]]) + values[i]);
            } else {
                y[at[i]] = Out(values[i]);
            }
        }
    }
}
