// Loads of four f16 of q, k and v for matrix.wgsl (lib/rows/narrow.wgsl). Past the end of a row, they repeat its last element.
fn q_halves(row: u32, d: u32) -> vec4<f16> {
    let at = four(row, d, params.dim_k);
    return vec4<f16>(q[at.x], q[at.y], q[at.z], q[at.w]);
}

fn k_halves(row: u32, d: u32) -> vec4<f16> {
    let at = four(row, d, params.dim_k);
    return vec4<f16>(f16(k[at.x]), f16(k[at.y]), f16(k[at.z]), f16(k[at.w]));
}

fn v_halves(row: u32, e: u32) -> vec4<f16> {
    let at = four(row, e, params.dim_v);
    return vec4<f16>(f16(v[at.x]), f16(v[at.y]), f16(v[at.z]), f16(v[at.w]));
}
