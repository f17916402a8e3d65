// Borders of packed sequences lie behind the stored segments (lib/borders.wgsl).

fn tokens() -> u32 {
    return params.keys;
}

fn store_border(s: u32, border: u32) {
    write_segment(params.kv_heads * params.stored_segments * params.segment_stride + s, bitcast<f32>(border));
}
