// Stored segments, for kernels that write none.
@group(0) @binding(SEGMENTS_BINDING) var<storage, read> segments: array<f32>; // [B G][segments][segment_stride]

fn segment_at(at: u32) -> f32 {
    return segments[at];
}

fn write_segment(at: u32, value: f32) {}
