// Rows of stored states (lib/rows/wide.wgsl).

// Four columns of a stored state, whose row starts at `row`.
fn stored_row(row: u32, e: u32) -> vec4<f32> {
    let at = row + min(e, params.dim_v - 4u);
    return vec4<f32>(segment_at(at), segment_at(at + 1u), segment_at(at + 2u), segment_at(at + 3u));
}

fn put_row(row: u32, e: u32, x: vec4<f32>) {
    if (e < params.dim_v) {
        write_segment(row + e, x.x);
        write_segment(row + e + 1u, x.y);
        write_segment(row + e + 2u, x.z);
        write_segment(row + e + 3u, x.w);
    }
}
