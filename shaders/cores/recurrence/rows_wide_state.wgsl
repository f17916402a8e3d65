// Rows of stored states (rows_wide.wgsl).

// Four columns of a stored state, whose row starts at `row`.
fn stored_row(row: u32, e: u32) -> vec4<f32> {
    let at = row + min(e, params.dim_v - 4u);
    return vec4<f32>(segments[at], segments[at + 1u], segments[at + 2u], segments[at + 3u]);
}

fn put_row(row: u32, e: u32, x: vec4<f32>) {
    if (e < params.dim_v) {
        segments[row + e] = x.x;
        segments[row + e + 1u] = x.y;
        segments[row + e + 2u] = x.z;
        segments[row + e + 3u] = x.w;
    }
}
