// Stores of o (rows_wide.wgsl).
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Row>; // B H N E

fn store_o(row: u32, e: u32, values: vec4<f32>) {
    if (e < params.dim_v) {
        o[(row + e) / 4u] = vec4<Elem>(values);
    }
}
