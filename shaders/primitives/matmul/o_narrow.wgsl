// Stores of o, element by element (o_wide.wgsl).
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Elem>;

fn store_o(at: u32, elements: u32, values: vec4<f32>) {
    for (var i = 0u; i < elements; i++) {
        o[at - params.o_base + i] = Elem(values[i]);
    }
}
