// Stores of o (rows_narrow.wgsl).
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Row>; // B H N E

fn store_o(row: u32, e: u32, values: vec4<f32>) {
    for (var c = 0u; c < 4u; c++) {
        if (e + c < params.dim_v) {
            o[row + e + c] = Elem(values[c]);
        }
    }
}
