// Rows of stored states (lib/rows/narrow.wgsl).

// Four columns of a stored state, whose row starts at `row`.
fn stored_row(row: u32, e: u32) -> vec4<f32> {
    let at = four(row, e, params.dim_v);
    return vec4<f32>(segment_at(at.x), segment_at(at.y), segment_at(at.z), segment_at(at.w));
}

fn put_row(row: u32, e: u32, x: vec4<f32>) {
    for (var c = 0u; c < 4u; c++) {
        if (e + c < params.dim_v) {
            write_segment(row + e + c, x[c]);
        }
    }
}
