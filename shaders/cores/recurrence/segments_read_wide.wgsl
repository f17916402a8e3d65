// Stored segments, for kernels that write none: four elements at once. Rows and segments are multiples of four long.
@group(0) @binding(SEGMENTS_BINDING) var<storage, read> segments: array<vec4<f32>>; // [B G][segments][segment_stride]

fn segment_at(at: u32) -> f32 {
    return segments[at / 4u][at % 4u];
}

fn write_segment(at: u32, value: f32) {}

// Four columns of a stored state, whose row starts at `row`.
fn stored_row(row: u32, e: u32) -> vec4<f32> {
    return segments[(row + min(e, params.dim_v - 4u)) / 4u];
}

fn put_row(row: u32, e: u32, x: vec4<f32>) {}
