// Loads and stores of o (narrow.wgsl).
@group(0) @binding(O_BINDING) var<storage, read_write> o: array<Out>; // B H N E

fn load_o(row: u32, e: u32) -> vec4<f32> {
    let at = four(row, e, params.dim_v);
    return vec4<f32>(f32(o[at.x]), f32(o[at.y]), f32(o[at.z]), f32(o[at.w]));
}

fn store_o(row: u32, e: u32, values: vec4<f32>) {
    for (var c = 0u; c < 4u; c++) {
        if (e + c < params.dim_v) {
            o[row + e + c] = Out(values[c]);
        }
    }
}
