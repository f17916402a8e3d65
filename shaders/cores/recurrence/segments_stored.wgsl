// Stored segments, to read and write.
@group(0) @binding(SEGMENTS_BINDING) var<storage, read_write> segments: array<f32>; // [B G][segments][segment_stride]

fn segment_at(at: u32) -> f32 {
    return segments[at];
}

fn write_segment(at: u32, value: f32) {
    segments[at] = value;
}
