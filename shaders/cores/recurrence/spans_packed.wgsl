// The batch entry is a row of packed sequences (lib/packed.wgsl). Their borders lie behind the stored segments in the workspace.

fn border_at(s: u32) -> u32 {
    return bitcast<u32>(segment_at(params.kv_heads * params.stored_segments * params.segment_stride + s));
}

// The tokens of a stored segment and of its sequence.
fn span_of(segment: u32, tokens: u32, invocation: u32) -> Span {
    let found = packed_segment(segment, invocation);
    return Span(found.x, found.y, found.z, found.w, min(found.w + params.segment, found.y + found.z));
}

// The stored segments of a carried state, of `unit`: a KV head of a sequence.
fn segments_of(unit: u32) -> Stored {
    let s = unit / params.kv_heads;
    let start = border(s);
    let tokens = max(border(s + 1u), start) - start;
    return Stored(s, unit % params.kv_heads, params.read_page + first_segment(s, start), segments_in(tokens), tokens);
}

// First token of a sequence.
fn sequence_start(sequence: u32) -> u32 {
    return border(sequence);
}
