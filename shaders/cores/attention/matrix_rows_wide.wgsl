// Loads of four f16 of q, k and v for matrix.wgsl (lib/rows/wide.wgsl). Past the end of a row, they repeat its last elements.
// WHOLE is 1 if D and E are multiples of TILE: then no load is past an end.
fn four_at(row: u32, first: u32, size: u32) -> u32 {
    return row / 4u + select(min(first, size - 4u), first, WHOLE != 0u) / 4u;
}

fn q_halves(row: u32, d: u32) -> vec4<f16> {
    return q[four_at(row, d, params.dim_k)];
}

fn k_halves(row: u32, d: u32) -> vec4<f16> {
    return vec4<f16>(k[four_at(row, d, params.dim_k)]);
}

fn v_halves(row: u32, e: u32) -> vec4<f16> {
    return vec4<f16>(v[four_at(row, e, params.dim_v)]);
}
