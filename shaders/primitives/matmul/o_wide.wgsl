// Stores of o, four elements at once, and loads of what has its shape: rows of outputs are multiples of four.
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<vec4<Elem>>;

// Stores the four elements from `at` on, all of which are there if `elements` is not 0.
fn store_o(at: u32, elements: u32, values: vec4<f32>) {
    if (elements > 0u) {
        o[(at - params.o_base) / 4u] = vec4<Elem>(values);
    }
}
